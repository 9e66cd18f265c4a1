"""What each answer format asks for: tasks, names and descriptions, and the wordings of papers and model cards."""

from __future__ import annotations

import re

import pytest

from verl_visionr1.answers import FORMATS, instruction

ASKED = {
    "qwen-json": "detection grounding counting",
    "vlmr1-json": "detection grounding",
    "qwen2-vl": "detection grounding counting",
    "internvl": "detection grounding counting",
    "glm": "detection grounding counting",
    "griffon": "detection grounding counting",
    "paligemma": "detection grounding counting",
    "gemma-json": "detection grounding counting",
    "list": "grounding counting",
    "qwen-points": "pointing counting",
    "molmo-points": "pointing counting",
    "point": "pointing counting",
}


@pytest.mark.parametrize("name", ASKED)
def test_each_format_asks_for_the_tasks_it_can_answer(name: str) -> None:
    ask = FORMATS[name].instruct
    assert ask is not None
    for task in ("detection", "grounding", "counting", "pointing", "text"):
        if task not in ASKED[name].split():
            with pytest.raises(ValueError, match=rf"task = '{task}': answer format '{name}' cannot answer it; it can"):
                ask(task, ["red cup"])
            continue
        question, allowing = ask(task, ["red cup {0}"]), ask(task, ["red cup {0}"], allow_none=True)
        assert "red cup {0}" in question
        assert "{phrase" not in question
        assert allowing.startswith(question)
        says_already = "simply respond with None" in question
        assert (allowing != question) == (name != "paligemma" and not says_already)
    with pytest.raises(ValueError, match=r"phrases = \[\]: task"):
        ask(ASKED[name].split()[0], [])
    with pytest.raises(ValueError, match=r"phrases = 'cup': task"):
        ask(ASKED[name].split()[0], "cup")


WORDINGS = {
    "Vision-R1, detection": (
        ("qwen-json", "detection", ["cat", "dog"]),
        "Locate every item from the category list in the image and output the coordinates in JSON format. The category "
        "set includes cat, dog.",
    ),
    "Vision-R1, Griffon-G, detection": (
        ("griffon", "detection", ["cat", "dog"]),
        "Examine the image for any objects from the category set. Report the coordinates of each detected object. "
        "The category set includes cat, dog.",
    ),
    "Vision-R1, Griffon-G, grounding": (
        ("griffon", "grounding", ["the left cat"]),
        "Can you point out the left cat in the image and provide the coordinates of its location?",
    ),
    "VLM-R1, REC": (
        ("vlmr1-json", "grounding", ["the left cat"]),
        "Please provide the bounding box coordinate of the region this sentence describes: the left cat. First output "
        "the thinking process in <think> </think> tags and then output the final answer in <answer> </answer> tags. "
        "Output the final answer in JSON format.",
    ),
    "InternVL, REC": (
        ("internvl", "grounding", ["the left cat"]),
        "Please provide the bounding box coordinate of the region this sentence describes: <ref>the left cat</ref>",
    ),
    "InternVL, detection": (
        ("internvl", "detection", ["cat", "dog"]),
        "Please detect and label all objects of these categories in the following image and mark their positions: "
        "<ref>cat</ref>, <ref>dog</ref>",
    ),
    "GLM, grounding": (
        ("glm", "grounding", ["the left cat"]),
        "Please pinpoint the bounding box [[x1,y1,x2,y2], ...] in the image as per the given description. the left cat",
    ),
    "PaliGemma": (("paligemma", "detection", ["cat", "dog"]), "detect cat ; dog"),
    "Molmo": (("molmo-points", "pointing", ["the cats"]), "Point to the cats"),
}
DESCRIPTIONS = {
    **dict.fromkeys(("a man", "A man", "The dog", "an old car", "his left hand"), "an article or a pronoun first"),
    **dict.fromkeys(("two men", "2 men", "both dogs", "some water"), "a number or an amount first"),
    **dict.fromkeys(("someone", "anything red", "people wearing hats"), "an amount of its own"),
    **dict.fromkeys(("white", "Red"), "a property"),
    **dict.fromkeys(("the clock is green in colour", "clock is green", "Man wears glasses", "dogs are"), "a clause"),
    **dict.fromkeys(("guy in blue", "left", "far right", "second from left", "in front"), "a place"),
    **dict.fromkeys(("the man, who sits", "Man wears eye glasses.", "which one?"), "signs of a sentence"),
    **dict.fromkeys(("a_man", "bike that stands at the far edge"), "however it is written, however long"),
}
NAMES = [
    *["cat", "red circle", "Traffic Light", "gray rubber cube", "aerosol_can", "bow_(weapon)"],
    *["sea shells", "class_1", "orange", "scissors", "white cup"],
]
"""Names of kinds, those of COCO, LVIS, CLEVR and FSC-147 among them."""


@pytest.mark.parametrize("name", FORMATS)
def test_every_goes_before_names_alone(name: str) -> None:
    """A description is asked for in words that fit it, whatever its split, and names as they always were."""
    ask = FORMATS[name].instruct
    for task in FORMATS[name].tasks:
        assert ask is not None
        template = ask(task, ["PHRASE"])
        assert [ask(task, [phrase]) for phrase in NAMES] == [template.replace("PHRASE", phrase) for phrase in NAMES]
        for phrase, why in DESCRIPTIONS.items():
            asked = ask(task, [phrase])
            assert phrase in asked
            assert not re.search(rf"(?:every|how many) (?:<ref>)?{re.escape(phrase)}", asked, re.IGNORECASE), why


def test_the_wording_of_descriptions() -> None:
    assert instruction("grounding", ["the clock is green in colour"], allow_none=True) == (
        'Locate everything in the image that "the clock is green in colour" describes and output the coordinates in '
        "JSON format. If there is none, output []."
    )
    count = FORMATS["count"].instruct
    assert count is not None
    ending = "and answer with the number alone."
    described = f'Count everything in the image that "a man" or "dog" describes {ending}'
    assert count("counting", ["a man", "dog"]) == described
    assert count("counting", ["man", "dog"]) == f"Count every man and every dog in the image {ending}"


@pytest.mark.parametrize(("question", "expected"), WORDINGS.values(), ids=WORDINGS)
def test_wordings_are_those_of_the_papers_and_model_cards(question: tuple, expected: str) -> None:
    name, task, phrases = question
    assert FORMATS[name].instruct(task, phrases) == expected


def test_the_default_instruction_is_that_of_qwen_json() -> None:
    assert FORMATS["qwen-json"].instruct == instruction
    with pytest.raises(ValueError, match=r"\['two', 'phrases'\]: task 'grounding' needs a list of one phrase"):
        instruction("grounding", ["two", "phrases"])
