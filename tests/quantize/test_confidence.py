"""How well the agreement of a gate is known, and when it is said that it is not."""

from __future__ import annotations

import numpy as np
import pytest

from lit_deploy.quantize.confidence import agreement_interval, doubt
from lit_deploy.tasks.intervals import independent_count, wilson_interval, wilson_size
from lit_deploy.tasks.protocol import Change


def change(differing: int, total: int, parts: tuple[tuple[int, int], ...] = ()) -> Change:
    return Change(differing, total, "pixels" if parts else "images", "", "", 0, 0.0, None, parts)


def test_the_interval_is_wilsons() -> None:
    assert agreement_interval(change(1, 29)) == pytest.approx((1 - 0.1718, 1 - 0.0061), abs=5e-5)
    assert agreement_interval(change(0, 128)) == wilson_interval(128, 128)


@pytest.mark.parametrize(
    ("differing", "images", "budget", "told"),
    [
        (0, 128, 0.01, True),  # it passes, and 2.9 % of further ones may differ
        (0, 400, 0.01, False),
        (2, 128, 0.01, True),  # it fails, and 0.4 % may be all
        (9, 128, 0.01, False),
        (1, 128, 0.10, False),
        (0, 128, 0.0, False),
        (128, 128, 1.0, False),
    ],
)
def test_images_that_are_too_few_are_said(differing: int, images: int, budget: float, told: bool) -> None:
    assert bool(doubt(change(differing, images), images, budget)) == told


def test_the_sentence_names_the_numbers_and_the_way_on() -> None:
    assert doubt(change(0, 128), 128, 0.01) == (
        "128 images are too few to tell on which side of the budget of 1.00% it is: of further ones 0.00% to 2.91% of "
        "the images may differ (95 %, Wilson's interval); calibrate with about 390"
    )
    assert doubt(change(1, 100), 100, 0.01).endswith("; more of them would hardly tell")


@pytest.mark.parametrize(("share", "limit"), [(0.0, 0.01), (0.004, 0.01), (0.03, 0.01)])
def test_so_many_images_would_tell(share: float, limit: float) -> None:
    enough = wilson_size(share, limit)
    ends = wilson_interval(share * enough, enough)
    assert min(abs(end - limit) for end in ends) < 1e-9


# --------------------------------------------------------------------------------- predictions that change together


def test_predictions_of_one_image_each_are_independent() -> None:
    assert independent_count([(0, 1), (1, 1), (0, 1)]) == 3


def test_images_that_are_wrong_as_a_whole_count_once() -> None:
    parts = [(1000, 1000)] * 5 + [(0, 1000)] * 45
    assert independent_count(parts) == pytest.approx(50)
    assert agreement_interval(change(5000, 50_000, tuple(parts))) == pytest.approx(wilson_interval(45, 50))


def test_images_that_are_wrong_alike_count_more() -> None:
    random = np.random.default_rng(0)
    parts = [(int(random.binomial(1000, 0.1)), 1000) for _ in range(50)]
    assert 20_000 < independent_count(parts) <= 50_000


def test_images_that_do_not_vary_show_nothing() -> None:
    assert independent_count([(0, 1000)] * 20) == 20
    assert independent_count([(10, 1000)]) == 1
    assert independent_count([(0, 0), (0, 0)]) == 1
