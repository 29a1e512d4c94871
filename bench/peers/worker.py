"""One engine in a process of its own: reads questions as lines of JSON, and answers with ids and times.

Other engines live in environments of their own, often beside another PyTorch. So this file is run by path, by
their Python, and imports nothing of Antiphon but in Antiphon's own process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

NUM_POSITIONS = 512
"""Of a request: its prompt and its new ids"""
CACHE_BYTES = 2**28
FIRST_TOKENS = ("<unk>", "<s>", "</s>")


class Generated(NamedTuple):
    ids: list[list[int]]
    first_s: float | None
    """Until each request had its first id, where the engine says so"""


class Program(Protocol):
    """An engine with the weights of each row in memory."""

    about: str

    def generate(self, row: str, prompts: list[list[int]], new: int) -> Generated:
        """`new` ids after each prompt, the likeliest each time; all prompts are answered together."""
        ...


class Antiphon:
    def __init__(self, model: Path, llm: Path, rows: list[str], threads: int, most: int) -> None:
        from antiphon import Engine, __version__
        from antiphon.bench.formats import FORMATS

        self.about = f"Antiphon {__version__}, PyTorch {_torch(threads).__version__}"
        self._engines = {
            row: Engine(
                model,
                device="cpu",
                enable_prefix_caching=False,  # the others have none here either
                max_num_seqs=most,
                kv_cache_bytes=CACHE_BYTES,
                progress=False,
                **FORMATS[row],
            )
            for row in rows
        }
        self._texts: dict[tuple[int, ...], str] = {}

    def prompt_ids(self, text: str) -> list[int]:
        """The prompt that a question becomes; `generate` takes only those."""
        from antiphon import Request

        engine = next(iter(self._engines.values()))
        ids = list(engine.prepare(Request(text, system="")).ids)
        self._texts[tuple(ids)] = text
        return ids

    def generate(self, row: str, prompts: list[list[int]], new: int) -> Generated:
        from antiphon import Request, SamplingParams

        engine = self._engines[row]
        requests = [Request(self._texts[tuple(ids)], system="") for ids in prompts]
        done = engine.generate(requests, SamplingParams(max_tokens=new, ignore_eos=True))
        firsts = [completion.metrics.ttft_s for completion in done]
        first_s = max((first for first in firsts if first is not None), default=None)
        return Generated([list(completion.text_ids) for completion in done], first_s)


class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level interface, as its server's slots use it: all prompts in
    one batch, then one id of each at a time. Its KV cache is in 16 bits and flash attention is on where it
    chooses so: its defaults."""

    def __init__(self, model: Path, llm: Path, rows: list[str], threads: int, most: int) -> None:
        self._lib = lib = import_module("llama_cpp")
        lib.llama_backend_init()
        self._quiet = lib.llama_log_callback(lambda *_: None)  # llama.cpp holds no reference of its own
        lib.llama_log_set(self._quiet, None)
        self.about = f"llama-cpp-python {lib.__version__}"
        self._threads, self._most = threads, most
        self._models: dict[str, Any] = {}
        """One of each row"""
        self._contexts: dict[tuple[str, int], Any] = {}
        self._batch = lib.llama_batch_init(NUM_POSITIONS * most, 0, 1)
        plain = []
        for row in rows:
            path = write_gguf(llm, llm / f"{row}.gguf", row)
            as_is = self._survives(row, path)
            self._models[row] = self._load(path, as_is=as_is)
            if not as_is:
                plain.append(row)
        if plain:
            self.about += f"; {', '.join(plain)} without layouts of its own, with which it crashes here"

    def _load(self, path: Path, *, as_is: bool) -> Any:
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers, params.use_extra_bufts = 0, as_is
        model = self._lib.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise RuntimeError(f"llama.cpp did not load {path.name}")
        return model

    def _survives(self, row: str, path: Path) -> bool:
        """Whether it computes in the layouts it chooses, tried in another process: version 0.3.36 ends with
        an illegal instruction on some processors with AMX."""
        child = os.fork()
        if child == 0:
            self._models[row] = self._load(path, as_is=True)
            self.generate(row, [[1, 2]], 2)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def _context(self, row: str, count: int) -> Any:
        if (row, count) not in self._contexts:
            params = self._lib.llama_context_default_params()
            params.n_ctx, params.n_seq_max = NUM_POSITIONS * count, count
            params.n_batch = NUM_POSITIONS * self._most
            params.n_threads = params.n_threads_batch = self._threads
            self._contexts[row, count] = self._lib.llama_init_from_model(self._models[row], params)
        return self._contexts[row, count]

    def _put(self, place: int, token: int, position: int, sequence: int, *, wanted: bool) -> None:
        batch = self._batch
        batch.token[place], batch.pos[place] = token, position
        batch.n_seq_id[place], batch.logits[place] = 1, wanted
        batch.seq_id[place][0] = sequence

    def _decoded(self, context: Any, count: int, rows: list[int]) -> list[int]:
        numpy, lib = import_module("numpy"), self._lib
        self._batch.n_tokens = count
        if lib.llama_decode(context, self._batch) != 0:
            raise RuntimeError("llama_decode failed")
        size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(lib.llama_get_model(context)))
        logits = (lib.llama_get_logits_ith(context, row) for row in rows)
        return [int(numpy.ctypeslib.as_array(row, (size,)).argmax()) for row in logits]

    def generate(self, row: str, prompts: list[list[int]], new: int) -> Generated:
        context = self._context(row, len(prompts))
        self._lib.llama_memory_clear(self._lib.llama_get_memory(context), True)
        start, count, last = time.perf_counter(), 0, []
        for sequence, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                self._put(count, token, position, sequence, wanted=position + 1 == len(prompt))
                count += 1
            last.append(count - 1)
        picked = self._decoded(context, count, last)
        first_s = time.perf_counter() - start
        found = [[token] for token in picked]
        for step in range(new - 1):
            for sequence, tokens in enumerate(found):
                self._put(sequence, tokens[-1], len(prompts[sequence]) + step, sequence, wanted=True)
            picked = self._decoded(context, len(found), list(range(len(found))))
            for tokens, token in zip(found, picked, strict=True):
                tokens.append(token)
        return Generated(found, first_s)


class Transformers:
    def __init__(self, model: Path, llm: Path, rows: list[str], threads: int, most: int) -> None:
        self._torch, lib = _torch(threads), import_module("transformers")
        self.about = f"transformers {lib.__version__}, PyTorch {self._torch.__version__}"
        self._models = {
            row: lib.AutoModelForCausalLM.from_pretrained(
                str(llm), dtype=getattr(self._torch, row), attn_implementation="sdpa"
            ).eval()
            for row in rows
        }

    def generate(self, row: str, prompts: list[list[int]], new: int) -> Generated:
        config = import_module("transformers").GenerationConfig(
            max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=True
        )
        ids = self._torch.tensor(prompts)
        with self._torch.inference_mode():
            found = self._models[row].generate(
                ids, attention_mask=self._torch.ones_like(ids), generation_config=config
            )
        return Generated(found[:, ids.shape[1] :].tolist(), None)


class Vllm:
    def __init__(self, model: Path, llm: Path, rows: list[str], threads: int, most: int) -> None:
        os.environ.update(
            VLLM_CPU_OMP_THREADS_BIND=f"0-{threads - 1}",
            VLLM_CPU_KVCACHE_SPACE="1",
            VLLM_ENABLE_V1_MULTIPROCESSING="0",
            VLLM_NO_USAGE_STATS="1",
            VLLM_LOGGING_LEVEL="WARNING",
        )
        lib = import_module("vllm")
        self.about = f"vllm {lib.__version__}"
        self._models = {
            row: lib.LLM(
                str(llm),
                dtype=row,
                skip_tokenizer_init=True,
                max_model_len=NUM_POSITIONS,
                enable_prefix_caching=False,
                max_num_seqs=most,
                max_num_batched_tokens=NUM_POSITIONS * most,
            )
            for row in rows
        }

    def generate(self, row: str, prompts: list[list[int]], new: int) -> Generated:
        lib = import_module("vllm")
        params = lib.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        asked = [lib.TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        done = self._models[row].generate(asked, params, use_tqdm=False)
        return Generated([list(one.outputs[0].token_ids) for one in done], None)


PROGRAMS: dict[str, Callable[[Path, Path, list[str], int, int], Program]] = {
    "Antiphon": Antiphon,
    "llama.cpp": LlamaCpp,
    "transformers": Transformers,
    "vLLM": Vllm,
}


def write_gguf(llm: Path, path: Path, kind: str) -> Path:
    """A Llama folder as a GGUF file in F32, F16, BF16 or Q8_0, with tokens that nobody reads."""
    gguf, numpy = import_module("gguf"), import_module("numpy")
    config = json.loads((llm / "config.json").read_text())
    tensors = import_module("safetensors.numpy").load_file(llm / "model.safetensors")
    heads, kv_heads, size = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "vocab_size"))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(size)
    names = [*FIRST_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [f"w{number}" for number in range(size - len(names))]
    token = gguf.TokenType
    kinds = [token.UNKNOWN, token.CONTROL, token.CONTROL, *[token.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([*kinds, *[token.NORMAL] * (size - len(kinds))])
    name_map = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    stored = gguf.GGMLQuantizationType[kind]
    for name, tensor in tensors.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = _interleaved(tensor, heads if "q_proj" in name else kv_heads)
        tensor = numpy.ascontiguousarray(tensor, numpy.float32)
        own = stored if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
        other = name_map.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(other, gguf.quantize(tensor, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _interleaved(weight: Any, heads: int) -> Any:
    """Rows in ggml's order, which rotates neighbours; Hugging Face rotates the halves of a head."""
    rows, *rest = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(weight.shape)


def _torch(threads: int) -> Any:
    torch = import_module("torch")
    torch.set_num_threads(threads)
    return torch


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """A line says what to load, and each further one what to generate; each is answered by one line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever engines print

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    asked = json.loads(sys.stdin.readline())
    try:
        load, model, llm = (asked.pop(name) for name in ("program", "model", "llm"))
        program = PROGRAMS[load](Path(model), Path(llm), asked["rows"], asked["threads"], asked["most"])
    except Exception as error:  # noqa: BLE001 - its own reason, whatever that is
        say(error=f"{type(error).__name__}: {error}")
        return
    say(about=program.about)
    for line in sys.stdin:
        try:
            asked = json.loads(line)
            if "text" in asked:
                assert isinstance(program, Antiphon)
                say(ids=program.prompt_ids(asked["text"]))
                continue
            cpu, start = _cpu_s(), time.perf_counter()
            found = program.generate(**asked)
            total_s, cpu_s = time.perf_counter() - start, _cpu_s() - cpu
            say(ids=found.ids, total_s=total_s, first_s=found.first_s, cpu_s=cpu_s)
        except Exception as error:  # noqa: BLE001
            say(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
