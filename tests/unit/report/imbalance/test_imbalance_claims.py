"""Every claim in every verdict, on jobs of known laws; p-values against SciPy and by hand."""

import statistics

import pytest
from scipy import stats

from i0t.report.imbalance_claims import FAILS, HOLDS, UNTESTED, Claim, ClaimTest, judge
from i0t.report.imbalance_page import claims_of
from i0t.report.imbalance_points import imbalance_jobs
from i0t.report.imbalance_statistics import OneSided
from i0t.report.imbalance_trends import seed_blocks

BOTH = ("digit", "color")


@pytest.fixture
def claims_on(make_sweep):
    def claims(**options):
        return {claim.name: claim for claim in claims_of(imbalance_jobs(make_sweep(**options))[0])}

    return claims


def swapped(k, main, label, modality):
    """The factor that is not captioned stands out."""
    return 0.1 if label == main else 0.7


CASES = {
    # claim: (options that make it hold, that make it fail, that leave it untested)
    "gap_falls": ({}, {"distance": lambda k, main: 0.2 + 0.01 * k}, {"ks": [5]}),
    "accuracy_rises": ({}, {"accuracy": lambda k, main, label: 0.6 - 0.01 * k}, {"ks": [0, 3]}),
    "bias_falls": ({}, {"text": lambda k, main: 0.1 + 0.1 * k}, {"seeds": (0, 1), "ks": (1, 5)}),
    "captioned_factor_becomes_bias": ({"mains": BOTH}, {"mains": BOTH, "contrast": swapped}, {}),
    "captioned_factor_leads": ({}, {"contrast": swapped}, {"contrast": None}),
    "more_in_images": ({}, {"text": lambda k, main: 0.7 - 0.1 * k}, {"seeds": (0,)}),
    "gap_closes": ({}, {"end": lambda k, main: 0.9}, {"start": None}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("which", "verdict"), [(0, HOLDS), (1, FAILS), (2, UNTESTED)])
def test_every_claim_in_every_verdict(claims_on, name, which, verdict):
    claim = claims_on(**CASES[name][which])[name]
    assert claim.verdict == verdict
    assert all(test.reason for test in claim.tests if test.verdict == UNTESTED)
    assert set(claims_on()) == set(CASES), "no claim is left out"


def test_the_p_of_a_trend_is_page_s_over_seeds(make_sweep):
    jobs, _ = imbalance_jobs(make_sweep(mains=BOTH, rmg=lambda k, main: [0.2, 0.3, 0.27, 0.29, 0.2, 0.1][k]))
    table = [
        [
            -statistics.fmean(j.numbers["gap/rmg"] for j in jobs if (j.k, j.repetition) == (k, f"seed {seed}"))
            for k in range(1, 6)
        ]
        for seed in range(3)
    ]
    (test, _), notes = claims_of(jobs)[0].tests, claims_of(jobs)[0].notes
    assert test.result.p_value == pytest.approx(stats.page_trend_test(table, method="exact").pvalue)
    differences = [block[0] - block[-1] for block in table]  # the table is negated
    expected = stats.ttest_1samp(differences, 0).confidence_interval()
    assert test.effect == "k = 5 minus k = 1"
    assert test.estimate[:3] == pytest.approx((statistics.fmean(differences), expected.low, expected.high))
    assert test.estimate.mean == pytest.approx(-0.2, abs=2e-3)
    assert "RMG 0.200 at k = 0 and 0.300 at k = 1" in notes[0]


def test_k_0_decides_nothing(claims_on):
    low = claims_on(rmg=lambda k, main: 0.0 if k == 0 else 0.35 - 0.05 * k)["gap_falls"].tests[0]
    high = claims_on(rmg=lambda k, main: 1.0 if k == 0 else 0.35 - 0.05 * k)["gap_falls"].tests[0]
    assert low.result == high.result
    assert low.result.p_value == pytest.approx(1 / 120**3)


def test_a_missing_job_costs_its_seed_that_k_alone(make_sweep):
    jobs = [j for j in make_sweep() if (j["overrides"]["seed"], j["overrides"]["data.captions"][-1]) != ("1", "3")]
    test = claims_of(imbalance_jobs(jobs)[0])[0].tests[0]
    assert test.result.p_value == pytest.approx(1 / (120 * 24 * 120))
    assert test.verdict == HOLDS


def test_a_main_object_with_a_missing_job_is_left_out_of_that_seed(make_sweep):
    def law(k, main):
        return {"digit": 0.5, "color": 9.0}[main] - 0.05 * k

    jobs, _ = imbalance_jobs(make_sweep(mains=BOTH, rmg=law))
    jobs = [job for job in jobs if (job.main_object, job.k, job.repetition) != ("color", 3, "seed 1")]
    blocks = seed_blocks(jobs, "gap/rmg")
    assert [list(blocks[seed]) for seed in ("seed 0", "seed 1", "seed 2")] == [[1, 2, 3, 4, 5]] * 3
    assert [blocks[f"seed {seed}"][1] for seed in range(3)] == pytest.approx([4.7, 0.45, 4.7], abs=1e-3)


def test_accuracy_of_object_and_attributes_stand_beside_the_claim(claims_on):
    def object_falls(k, main, label):
        return 0.95 - 0.02 * k if label == main else 0.4 + 0.05 * k

    claim = claims_on(accuracy=object_falls)["accuracy_rises"]
    verdicts = {test.measure: (test.verdict, test.decides) for test in claim.tests}
    assert verdicts["mean accuracy rises"] == (HOLDS, True)
    assert verdicts["accuracy of the main object rises"] == (FAILS, False)
    assert verdicts["accuracy of color as an attribute rises"] == (HOLDS, False)
    assert "accuracy of digit as an attribute rises" not in verdicts
    assert claim.verdict == HOLDS


def test_a_factor_s_advantage_is_paired_by_seed_and_leaves_full_captions_out(claims_on):
    def law(k, main, label, modality):
        gain = {"image": 0.3, "text": 0.1}[modality] if label == main else 0.0
        return 5.0 if k in (0, 5) and label == main else 0.2 + gain

    tests = claims_on(mains=BOTH, contrast=law)["captioned_factor_becomes_bias"].tests
    assert [(test.measure.split()[2], test.measure.split()[4], test.decides) for test in tests] == [
        (main, modality, modality == "images") for main in ("digit", "color") for modality in ("images", "texts")
    ]
    assert [test.estimate.mean for test in tests] == pytest.approx([0.3, 0.1, 0.3, 0.1], abs=2e-3)
    assert all("k = 1, 2, 3, 4 (3 seeds)" in test.method for test in tests)
    assert all(test.verdict == HOLDS for test in tests)


def test_the_lead_is_over_the_largest_other_factor(claims_on):
    def law(k, main, label, modality):
        return {"digit": 0.5, "color": 0.45}.get(label, 0.0)

    tests = claims_on(contrast=law)["captioned_factor_leads"].tests
    assert [test.estimate.mean for test in tests] == pytest.approx([0.05, 0.05], abs=1e-3)


def test_more_in_images_is_a_t_test_over_seeds(make_sweep):
    jobs, _ = imbalance_jobs(make_sweep())
    for job in jobs:  # seeds that differ
        job.numbers["object_bias/text"] = job.numbers["object_bias/image"] - 0.02 - 0.01 * int(job.repetition[-1])
    (claim,) = [claim for claim in claims_of(jobs) if claim.name == "more_in_images"]
    assert claim.tests[0].estimate.mean == pytest.approx(0.03)
    assert claim.tests[0].result.p_value == pytest.approx(
        stats.ttest_1samp([0.02, 0.03, 0.04], 0, alternative="greater").pvalue
    )


def test_closing_compares_the_step_before_training_with_the_end(claims_on, make_sweep):
    tests = claims_on(start=lambda k, main: 1.25, end=lambda k, main: 0.6 - 0.1 * k)["gap_closes"].tests
    assert [test.estimate.mean for test in tests] == pytest.approx([0.08, 0.32, 0.1, 0.4], abs=2e-3)
    assert [test.decides for test in tests] == [True, False, True, False]
    small = claims_on(start=lambda k, main: 0.15)["gap_closes"]
    assert small.verdict == UNTESTED
    assert "the initial gap is not large: centroid distance 0.15" in small.tests[0].reason
    late = make_sweep()
    for job in late:
        job["history"] = {name: points[1:] for name, points in job["history"].items()}
    claim = claims_of(imbalance_jobs(late)[0])[-1]
    assert claim.verdict == UNTESTED
    assert "validate_first=true" in claim.tests[0].reason


def test_a_single_seed_shows_its_trend_without_more_than_it_can_tell(claims_on):
    claims = claims_on(seeds=(0,))
    trend = claims["gap_falls"].tests[0]
    assert trend.result.p_value == pytest.approx(1 / 120)
    assert claims["captioned_factor_leads"].tests[0].reason == "a t-test needs two seeds or more"
    assert claims["captioned_factor_leads"].tests[0].estimate.mean == pytest.approx(0.6, abs=2e-3)
    two = claims_on(seeds=(0, 1), ks=(1, 5))["gap_falls"]
    assert two.tests[0].result == (pytest.approx(0.25), pytest.approx(0.25))
    assert "too few jobs: the least possible p is 0.25" in two.tests[0].reason


def test_holm_within_deciding_tests_and_within_those_beside_them():
    def of(p, *, decides, least=0.0):
        return ClaimTest(measure="", method="", effect="", result=OneSided(p, least), decides=decides)

    first = Claim(name="a", statement="", criterion="", tests=(of(0.02, decides=True), of(0.04, decides=False)))
    second = Claim(name="b", statement="", criterion="", tests=(of(0.03, decides=True),))
    third = Claim(name="c", statement="", criterion="", tests=(of(0.02, decides=True, least=0.02),))
    untested = ClaimTest(measure="", method="", effect="", reason="none")
    alone = Claim(name="d", statement="", criterion="", tests=(untested,))
    judged = judge([first, second, third, alone])
    assert [t.adjusted_p for c in judged for t in c.tests] == pytest.approx([0.06, 0.04, 0.06, 0.06, None])
    assert [c.verdict for c in judged] == [FAILS, FAILS, UNTESTED, UNTESTED]
    assert judged[0].tests[1].verdict == HOLDS
    assert [c.verdict for c in judge([first])] == [HOLDS]
