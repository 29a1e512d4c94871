"""The stages that make hearing and speaking: data, unit encoder, flow, vocoder, codec folder."""

from __future__ import annotations

from antiphon_tiny.stages import Run, stage


@stage("speech-data", "speak all sentences with all voices")
def speech_data(arguments: Run) -> None:
    from antiphon_tiny.speech.build_data import SETS, build

    build(arguments.folder("speech"), tuple(SETS), arguments.seed, lambda line: print(line, flush=True))


@stage("units", "train the unit encoder")
def units(arguments: Run) -> None:
    from antiphon_tiny.speech.train_units import train

    train(arguments)


@stage("ears", "train what hears the same units in all voices, on Whisper's states")
def ears(arguments: Run) -> None:
    from antiphon_tiny.speech.train_ears import train

    train(arguments)


@stage("encode", "what the speaking voice says, as units")
def encode(arguments: Run) -> None:
    from antiphon_tiny.speech.encode import encode_spoken

    encode_spoken(arguments)


@stage("encode-heard", "all voices in rooms and noise as units, by the ears")
def encode_heard(arguments: Run) -> None:
    from antiphon_tiny.speech.encode import encode_heard

    encode_heard(arguments)


@stage("pitch", "train the vocoder's pitch predictor")
def pitch(arguments: Run) -> None:
    from antiphon_tiny.speech.train_vocoder import train_pitch

    train_pitch(arguments)


@stage("flow", "train the flow from units to mel")
def flow(arguments: Run) -> None:
    from antiphon_tiny.speech.train_flow import train

    train(arguments)


@stage("vocoder", "train the vocoder on true mels")
def vocoder(arguments: Run) -> None:
    from antiphon_tiny.speech.train_vocoder import train

    train(arguments)


@stage("vocoder-tuned", "train the vocoder on the flow's mels")
def vocoder_tuned(arguments: Run) -> None:
    from antiphon_tiny.speech.train_vocoder import tune

    tune(arguments)


@stage("codec", "write the codec folder")
def codec(arguments: Run) -> None:
    from antiphon_tiny.speech.codec_folder import export

    export(arguments)


@stage("evaluate-speech", "what is understood of speech that went through units, and how it sounds")
def evaluate_speech(arguments: Run) -> None:
    from antiphon_tiny.speech.evaluate import evaluate

    evaluate(arguments)
