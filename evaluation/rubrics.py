"""What a judge is asked, and how its answers are read: of SpokenVisIT, MM-Vet and LLaVA-Bench in the wild,
each in the words of its authors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from antiphon.evaluation.cases import Case
from antiphon.evaluation.options import Options

__all__ = ["JUDGED_RULES", "Rubric", "Score", "rubric_of"]

Score = tuple[float, float]
"""What the answer got, of how much: 1 where scores are averaged"""
SCORE = re.compile(r"score[\"']?\s*[:=]\s*[\"']?([0-9]+(?:\.[0-9]+)?)", re.IGNORECASE)
BARE = re.compile(r"^\W*([1-5](?:\.[0-9]+)?)\W*$")
SHARE = re.compile(r"\s*([01](?:\.[0-9]+)?)(?![0-9])")
PAIR = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)[\s,]+([0-9]+(?:\.[0-9]+)?)\s*")
MOST = 10.0

SPOKEN_VISIT = """\
I need your assistance in evaluating the performance of several models in a vision-based speech interaction \
scenario. These models process the user's spoken input and generate spoken responses. For evaluation \
purposes, both the user's speech input and the model's speech output have been transcribed into text using \
Automatic Speech Recognition (ASR). Additionally, a brief image caption is provided to help you understand \
the visual context of the conversation. Your task is to assess the model's responses based on the given \
visual context [Image Caption], the transcribed user input [Instruction], and the transcribed model output \
[Response]. Please evaluate the responses considering factors such as helpfulness, responsiveness, empathy, \
and suitability for real-world multimodal interaction, and assign a single score on a scale from 1 to 5.

Below are the image caption and the transcriptions of the user's instruction and the model's response:
### [Image Caption]: {caption}
### [Instruction]: {question}
### [Response]: {answer}

After evaluating, please output the scores in JSON format: {{score: ...}}. You don't need to provide any \
explanations."""
"""arXiv 2506.13642, appendix B"""

ICELAND = """\
This meme is poking fun at the fact that the names of the countries Iceland and Greenland are misleading. \
Despite its name, Iceland is known for its beautiful green landscapes, while Greenland is mostly covered in \
ice and snow. The meme is saying that the person has trust issues because the names of these countries do \
not accurately represent their landscapes."""
MM_VET = f"""\
Compare the ground truth and prediction from AI models, to give a correctness score for the prediction. \
<AND> in the ground truth means it is totally right only when all elements in the ground truth are present \
in the prediction, and <OR> means it is totally right when any one element in the ground truth is present in \
the prediction. The correctness score is 0.0 (totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, \
or 1.0 (totally right). Just complete the last space of the correctness score.

Question | Ground truth | Prediction | Correctness
--- | --- | --- | ---
What is x in the equation? | -1 <AND> -5 | x = 3 | 0.0
What is x in the equation? | -1 <AND> -5 | x = -1 | 0.5
What is x in the equation? | -1 <AND> -5 | x = -5 | 0.5
What is x in the equation? | -1 <AND> -5 | x = -5 or 5 | 0.5
What is x in the equation? | -1 <AND> -5 | x = -1 or x = -5 | 1.0
Can you explain this meme? | {ICELAND} | The meme talks about Iceland and Greenland. It's pointing out that \
despite their names, Iceland is not very icy and Greenland isn't very green. | 0.4
Can you explain this meme? | {ICELAND} | The meme is using humor to point out the misleading nature of \
Iceland's and Greenland's names. Iceland, despite its name, has lush green landscapes while Greenland is \
mostly covered in ice and snow. The text 'This is why I have trust issues' is a playful way to suggest that \
these contradictions can lead to distrust or confusion. The humor in this meme is derived from the \
unexpected contrast between the names of the countries and their actual physical characteristics. | 1.0

"""
"""arXiv 2308.02490, table 1; the question's own row follows"""

LLAVA_BENCH_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
LLAVA_BENCH = """\
[Context]
{caption}

[Question]
{question}

[Assistant 1]
{reference}

[End of Assistant 1]

[Assistant 2]
{answer}

[End of Assistant 2]

[System]
We would like to request your feedback on the performance of two AI assistants in response to the user \
question displayed above. The user asks the question on observing an image. For your reference, the visual \
content in the image is represented with a few sentences describing the image. \n\
Please rate the helpfulness, relevance, accuracy, level of details of their responses. Each assistant \
receives an overall score on a scale of 1 to 10, where a higher score indicates better overall performance.
Please first output a single line containing only two values indicating the scores for Assistant 1 and 2, \
respectively. The two scores are separated by a space.
In the subsequent line, please provide a comprehensive explanation of your evaluation, avoiding any \
potential bias and ensuring that the order in which the responses were presented does not affect your \
judgment.

"""
"""The benchmark's, of all three of its categories; assistant 1 is GPT-4, which read the context alone"""


@dataclass(frozen=True)
class Rubric:
    prompt: Callable[[Case, str], str]
    """Of a case and its answer"""
    read: Callable[[str], Score | None]
    """Of what the judge says; None: that holds no score"""
    system: str = ""


def _spoken_visit(case: Case, answer: str) -> str:
    return SPOKEN_VISIT.format(caption=case.caption or "(none)", question=case.text, answer=answer)


def _one_to_five(raw: str) -> Score | None:
    """An answer such as {"score": 4}, or one that is a number alone."""
    found = SCORE.search(raw) or BARE.match(raw)
    score = float(found[1]) if found else 0.0
    return (score, 1.0) if 1 <= score <= 5 else None


def _mm_vet(case: Case, answer: str) -> str:
    right = case.references[0].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return f"{MM_VET}{case.text} | {right} | {answer} | "


def _share(raw: str) -> Score | None:
    """An answer that begins with a number from 0 to 1."""
    found = SHARE.match(raw)
    score = float(found[1]) if found else -1.0
    return (score, 1.0) if 0 <= score <= 1 else None


def _llava_bench(case: Case, answer: str) -> str:
    return LLAVA_BENCH.format(
        caption=case.caption, question=case.text, reference=case.references[0], answer=answer
    )


def _pair(raw: str) -> Score | None:
    """An answer whose first line is GPT-4's score and the model's, from 1 to 10."""
    found = PAIR.fullmatch(raw.lstrip().split("\n", 1)[0])
    if found is None:
        return None
    reference, score = float(found[1]), float(found[2])
    return (score, reference) if 0 < reference <= MOST and 0 <= score <= MOST else None


VISIT_RUBRIC = Rubric(_spoken_visit, _one_to_five)
JUDGED_RULES: Mapping[str, Rubric] = {
    "mm-vet": Rubric(_mm_vet, _share),
    "llava-bench": Rubric(_llava_bench, _pair, LLAVA_BENCH_SYSTEM),
}
"""Of "vqa", by rule"""


def rubric_of(options: Options) -> Rubric | None:
    """None: answers of this run are not judged."""
    if options.task == "visit":
        return VISIT_RUBRIC
    return JUDGED_RULES.get(options.rule) if options.task == "vqa" else None
