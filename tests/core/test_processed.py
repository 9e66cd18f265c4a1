"""Sizes against the code that verl runs: qwen_vl_utils for the first stage, transformers' processors for the second."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from verl_visionr1.processed import PROCESSORS, ImageProcessor, SizeError, processed_size

KNOWN = {
    "640x480 in 28s": ((640, 480), "qwen2.5-vl", {}, (644, 476)),
    "640x480 in 32s": ((640, 480), "qwen3-vl", {}, (640, 480)),
    "portrait": ((427, 640), "qwen2-vl", {}, (420, 644)),
    "full HD in 28s": ((1920, 1080), "qwen2.5-vl", {}, (1932, 1092)),
    "full HD in 32s": ((1920, 1080), "qwen3-vl", {}, (1920, 1088)),
    "a small budget: twice is not once": (
        (1920, 1080),
        "qwen2.5-vl",
        {"min_pixels": 3136, "max_pixels": 401408},
        (840, 476),
    ),
    "twice is not once, wide": ((1300, 434), "qwen2.5-vl", {"min_pixels": 3136, "max_pixels": 401408}, (1064, 364)),
    "thin": ((14, 400), "qwen2.5-vl", {}, (28, 392)),
    "one pixel": ((1, 1), "qwen2.5-vl", {}, (56, 56)),
    "GLM counts two frames": ((4000, 3000), "glm", {}, (2800, 2072)),
    "a budget beside the image": ((1920, 1080), "qwen2.5-vl", {"image_options": {"max_pixels": 401408}}, (840, 448)),
    "a size beside the image": (
        (1920, 1080),
        "qwen2.5-vl",
        {"image_options": {"resized_width": 100, "resized_height": 50}},
        (112, 56),
    ),
}


@pytest.mark.parametrize(("size_wh", "family", "budget", "expected"), KNOWN.values(), ids=KNOWN)
def test_known_sizes(size_wh: tuple[int, int], family: str, budget: dict, expected: tuple[int, int]) -> None:
    assert processed_size(size_wh, family, **budget) == expected


REFUSED = {
    "too thin": (((201, 1), "qwen2.5-vl"), {}, r"size_wh = \(201, 1\): sides are more than 200:1 apart"),
    "too thin once it is snapped": (((5720, 40), "qwen2.5-vl"), {}, r"\(5712, 28\): sides are more than 200:1 apart"),
    "no room for the short side": (
        ((4000, 40), "qwen2.5-vl"),
        {"image_options": {"max_pixels": 20000}},
        r"size_wh = \(4000, 40\): a budget of 20000 pixels leaves less than a patch",
    ),
    "one bound alone": (((9, 9), "qwen3-vl"), {"max_pixels": 9999}, r"max_pixels = 9999"),
    "bounds crossed": (((9, 9), "glm"), {"min_pixels": 9, "max_pixels": 8}, r"max_pixels = 8"),
    "image bounds crossed": (((9, 9), "glm"), {"image_options": {"max_pixels": 8}}, r"image_options: max_pixels = 8"),
    "unknown family": (((9, 9), "llava"), {}, r"processor = 'llava'"),
    "no width": (((0, 9), "glm"), {}, r"size_wh = 0"),
    "half a pixel": (((9.5, 9), "glm"), {}, r"size_wh = 9.5"),
}


@pytest.mark.parametrize(("given_", "budget", "message"), REFUSED.values(), ids=REFUSED)
def test_what_the_resizing_refuses(given_: tuple, budget: dict, message: str) -> None:
    with pytest.raises(SizeError, match=message):
        processed_size(*given_, **budget)


CONFIGS = {
    "budget beside an empty size": (
        {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12845056},
        (28, 3136, 12845056, 1),
    ),
    "budget as a size": (
        {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "size": {"shortest_edge": 65536, "longest_edge": 16777216},
            "patch_size": 16,
        },
        (32, 65536, 16777216, 1),
    ),
    "nothing said": ({"image_processor_type": "Qwen2VLImageProcessor"}, (28, 3136, 1003520, 1)),
    "GLM": (
        {"image_processor_type": "Glm4vImageProcessor", "size": {"shortest_edge": 12544, "longest_edge": 9633792}},
        (28, 12544, 9633792, 2),
    ),
}


@pytest.mark.parametrize(("config", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_a_processor_from_its_config(config: dict, expected: tuple[int, ...]) -> None:
    processor = ImageProcessor.from_config(config)
    assert (processor.factor, processor.min_pixels, processor.max_pixels, processor.n_frames) == expected


def test_another_kind_of_processor_is_refused() -> None:
    with pytest.raises(SizeError, match="image_processor_type = 'SiglipImageProcessor'"):
        ImageProcessor.from_config({"image_processor_type": "SiglipImageProcessor"})


def random_sizes(n: int) -> list[tuple[int, int]]:
    """Of every order of magnitude, with extreme aspects among them."""
    rng = random.Random(0)
    sizes = [(1, 1), (1, 200), (200, 1), (13, 14), (27, 5000), (5720, 40), (41, 43), (70, 70), (42, 42)]
    while len(sizes) < n:
        w, h = (int(2 ** rng.uniform(0, 13)) for _ in range(2))
        sizes.append((w, h) if rng.random() < 0.7 else (w, max(1, int(w * rng.uniform(0.004, 0.01)))))
    return sizes


def random_budgets(rng: random.Random, factor: int) -> tuple[int, int]:
    low = int(2 ** rng.uniform(8, 18))
    return low, low + int(2 ** rng.uniform(10, 24)) + 4 * factor**2


def outcome(call: Callable[[], tuple[int, int]]) -> tuple[int, int] | None:
    """The size, or None where it is refused."""
    try:
        size = call()
    except (ValueError, AssertionError, ZeroDivisionError):
        return None
    return size if all(size) else None  # a side of 0 fails a step later, in PIL


# The last has sides below its factor in the second stage, which GLM scales up first.
TWINS = [*PROCESSORS.values(), ImageProcessor("coarse glm", 14, 4, 112 * 112, 28 * 28 * 15000, n_frames=2)]


@pytest.mark.verl
@pytest.mark.parametrize("processor", TWINS, ids=lambda processor: processor.name)
def test_twins_of_both_stages_on_random_sizes_and_budgets(processor: ImageProcessor) -> None:
    from qwen_vl_utils import vision_process
    from transformers.models.glm4v.image_processing_glm4v import smart_resize as resize_glm
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as resize_qwen

    rng, refused, factor = random.Random(1), 0, processor.factor
    for size_wh in random_sizes(4000):
        first, second = (random_budgets(rng, factor) for _ in range(2))
        options = {"min_pixels": first[0], "max_pixels": first[1]} if rng.random() < 0.5 else {}
        budget = dict(zip(("min_pixels", "max_pixels"), second, strict=True)) if rng.random() < 0.5 else {}

        def both_stages(size_wh=size_wh, options=options, budget=budget) -> tuple[int, int]:
            h, w = vision_process.smart_resize(size_wh[1], size_wh[0], factor=2 * processor.patch_size, **options)
            low, high = budget.get("min_pixels", processor.min_pixels), budget.get("max_pixels", processor.max_pixels)
            if processor.n_frames == 2:
                h, w = resize_glm(2, h, w, temporal_factor=2, factor=factor, min_pixels=low, max_pixels=high)
            else:
                h, w = resize_qwen(h, w, factor=factor, min_pixels=low, max_pixels=high)
            return w, h

        expected = outcome(both_stages)
        ours = outcome(lambda s=size_wh, b=budget, o=options: processed_size(s, processor, image_options=o, **b))
        assert ours == expected, (size_wh, options, budget)
        refused += expected is None
    assert 0 < refused < 2000, "the sizes should be both sound and absurd"


@pytest.mark.verl
@pytest.mark.parametrize("family", PROCESSORS)
def test_twins_of_the_real_processors_on_real_images(family: str) -> None:
    from PIL import Image
    from qwen_vl_utils import fetch_image
    from transformers.models.glm4v.image_processing_glm4v import Glm4vImageProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    ours = PROCESSORS[family]
    kind = Glm4vImageProcessor if family == "glm" else Qwen2VLImageProcessor
    real = kind(
        size={"shortest_edge": ours.min_pixels, "longest_edge": ours.max_pixels},
        patch_size=ours.patch_size,
        merge_size=ours.merge_size,
    )
    budget = {"min_pixels": 20_000, "max_pixels": 90_000}
    as_size = {"size": {"shortest_edge": 20_000, "longest_edge": 90_000}}
    for w, h in [(640, 480), (427, 333), (300, 11), (9, 9), (130, 434), (28, 28), (512, 100)]:
        loaded = fetch_image({"image": Image.new("RGB", (w, h))}, image_patch_size=ours.patch_size)
        for ours_budget, real_budget in (({}, {}), (budget, as_size)):
            _, rows, columns = real([loaded], return_tensors="pt", **real_budget)["image_grid_thw"][0].tolist()
            expected = (columns * ours.patch_size, rows * ours.patch_size)
            assert processed_size((w, h), family, **ours_budget) == expected


@pytest.mark.verl
def test_defaults_are_those_of_the_installed_classes() -> None:
    from qwen_vl_utils import vision_process
    from transformers.models.glm4v.image_processing_glm4v import Glm4vImageProcessor
    from transformers.models.glm46v.image_processing_glm46v import Glm46VImageProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    assert (vision_process.IMAGE_MIN_TOKEN_NUM, vision_process.IMAGE_MAX_TOKEN_NUM) == (4, 16384)
    assert (vision_process.MAX_RATIO, vision_process.SPATIAL_MERGE_SIZE) == (200, 2)
    for real in (Qwen2VLImageProcessor, Glm4vImageProcessor, Glm46VImageProcessor):
        ours = ImageProcessor.from_config({"image_processor_type": real.__name__})
        # Building one with `min_pixels` changes the class's own `size`, so a fresh default is taken from the source.
        assert (ours.patch_size, ours.merge_size) == (real.patch_size, real.merge_size)
        assert ours.max_pixels == real.size["longest_edge"]
        assert ours.min_pixels == real.size["shortest_edge"]
