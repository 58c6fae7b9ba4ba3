"""Which runs fill a cell, and what their numbers come to."""

import math

import pytest

from i0t.paper.finished_runs import collect
from i0t.paper.published import load_table
from i0t.paper.results import fill

CD, I2T = "gap/centroid_distance", "retrieval/i2t_r1"


@pytest.fixture
def cell(tmp_path):
    """The line of a table, filled with what was written so far."""

    def line(number, row, column):
        runs, left_out = collect([tmp_path])
        assert left_out == []
        (found,) = (
            line
            for line in fill(load_table(number), runs).lines
            if (line.row.name, line.column.header) == (row, column)
        )
        return found

    return line


def stage1(seed, **facts):
    return {"trained_as": "i0t_stage1", "seed": seed, **facts}


def test_mean_and_standard_deviation_over_three_seeds_by_hand(write_run, cell):
    for seed, value in ((7, 0.70), (42, 0.73), (71, 0.79)):
        write_run(f"run{seed}", {f"test/none/{I2T}": value}, model=stage1(seed))
    line = cell(1, "LCCOM", "I2T")
    assert line.ours.values == pytest.approx((70, 73, 79))
    assert line.ours.mean == pytest.approx(74.0)
    assert line.ours.std == pytest.approx(math.sqrt((16 + 1 + 25) / 2))
    assert line.published == 73.7
    assert line.difference(line.ours) == pytest.approx(0.3)
    assert line.ours.deviations == ()
    assert line.ours.remarks == ()


def test_one_seed_has_no_spread(write_run, cell):
    write_run("run", {f"test/none/{CD}": 0.75})
    line = cell(2, "CLIP", "CD")
    assert (line.ours.mean, line.ours.std) == (0.75, None)
    assert line.difference(line.ours) == pytest.approx(-0.0142)


def test_of_runs_of_one_seed_the_newest_counts_and_the_others_are_said(write_run, cell):
    for folder, value in (("z", 0.1), ("a", 0.2), ("m", 0.3)):
        write_run(folder, {f"test/none/{CD}": value}, model=stage1(7))
    write_run("other", {f"test/none/{CD}": 0.5}, model=stage1(42))
    line = cell(1, "LCCOM", "CD")
    assert sorted(line.ours.values) == [0.3, 0.5]
    assert line.ours.remarks == ("2 older runs of the same seed set aside",)
    assert "2 older runs of the same seed set aside" in line.notes


def test_names_are_taken_exactly_and_published_variants_apart(write_run, cell):
    write_run("ours", {f"test/none/{CD}": 0.9}, model=stage1(0))
    write_run("theirs", {f"test/none/{CD}": 0.8}, model=stage1(0, trained_as="i0t_stage1_published"))
    write_run("another", {f"test/none/{CD}": 0.1}, model=stage1(1, trained_as="i0t_stage1_ln"))
    write_run("longer", {f"test/none/{CD}": 0.1}, model=stage1(1, trained_as="i0t_stage1_longer"))
    line = cell(1, "LCCOM", "CD")
    assert line.ours.values == (0.9,)
    assert line.as_published.values == (0.8,)
    assert line.difference(line.as_published) == pytest.approx(0.8 - 0.9682)


def test_nothing_is_run_where_there_is_no_run(write_run, cell):
    write_run("other_data", {f"test/none/{CD}": 0.1}, data={"data": "flickr8k"})
    write_run("other_split", {f"val/none/{CD}": 0.1}, data={"split": "val"})
    write_run("other_weights", {f"test/none/{CD}": 0.1}, model={"pretrained": "laion2b_s34b_b79k"})
    write_run("other_architecture", {f"test/none/{CD}": 0.1}, model={"architecture": "ViT-B-16"})
    write_run("stretched", {f"test/none/{CD}": 0.1}, model={"component": "long_clip"})
    write_run("from_file", {f"test/none/{CD}": 0.1}, model={"pretrained": None, "architecture": None})
    line = cell(2, "CLIP", "CD")
    assert line.ours.mean is None
    assert not line.ours.is_run
    assert line.difference(line.ours) is None


@pytest.mark.parametrize("pretrained", ["openai", "/weights/ViT-B-32.pt"])
@pytest.mark.parametrize("architecture", ["ViT-B-32", "ViT-B-32-quickgelu"])
def test_public_weights_are_known_by_tag_or_file_name(write_run, cell, pretrained, architecture):
    write_run("run", {f"test/none/{CD}": 0.5}, model={"pretrained": pretrained, "architecture": architecture})
    assert cell(2, "CLIP", "CD").ours.values == (0.5,)
    assert cell(2, "PAC-S", "CD").ours.values == ()


def test_a_run_without_the_number_is_not_called_missing(write_run, cell, row_of):
    note = "no tau_c_clipped: all rated captions have one score, or all ratings are equal"
    rows = {"mine": row_of("MeanShift", fit_split="test", direction="unit", strength=-0.5, notes=[note, "other"])}
    write_run("run", {"test/mine/caption_correlation/tau_c": 0.1}, rows=rows, data={"data": "flickr8k_expert"})
    line = cell(2, "MG -0.5", "Expert")
    assert line.ours.is_run
    assert line.ours.mean is None
    assert line.ours.remarks[0].endswith("run has no number for this column")
    assert line.ours.remarks[1:] == (note,)
    assert not cell(2, "MG 0.5", "Expert").ours.is_run


@pytest.mark.parametrize(("strength", "row"), [(0.375, "MG 0.375"), (0.5, "MG 0.5"), (-0.5, "MG -0.5")])
def test_rows_are_known_by_what_their_reducer_is_not_by_their_name(write_run, cell, row_of, strength, row):
    about = {"fit_split": "test", "direction": "unit", "strength": strength}
    rows = {
        "none": row_of(),
        "posthoc": row_of("MeanShift", **about),
        "raw": row_of("MeanShift", **{**about, "direction": "difference"}),
        "inductive": row_of("MeanShift", **{**about, "fit_split": "train"}),
        "elsewhere": row_of("MeanShift", **about, fit_data="coco"),
    }
    numbers = {f"test/{name}/{CD}": 0.1 * position for position, name in enumerate(rows)}
    write_run("run", numbers, rows=rows)
    assert cell(2, row, "CD").ours.values == pytest.approx((0.1,))
    assert cell(2, "CLIP", "CD").ours.values == (0.0,)


@pytest.mark.parametrize("strength", [0.5, None])
def test_another_strength_is_another_method(write_run, cell, row_of, posthoc, strength):
    rows = {"posthoc": posthoc(strength=strength), "async_bn": row_of("AsyncBatchNorm", strength=strength)}
    write_run("run", {f"test/posthoc/{CD}": 0.1}, rows=rows, model=stage1(0))
    write_run("async", {f"test/async_bn/{CD}": 0.1}, rows=rows, model=stage1(0, trained_as="i0t_async"))
    assert not cell(2, "I0T_post", "CD").ours.is_run
    assert not cell(2, "I0T_async", "CD").ours.is_run


def test_the_reducer_a_model_was_trained_with_is_not_one_fitted_afterwards(write_run, cell, row_of):
    fitted = row_of("AsyncBatchNorm", fit_split="train", protocol="inductive", strength=1.0)
    numbers = {f"test/async_bn/{CD}": 0.1, f"test/async_bn_of_run/{CD}": 0.48, f"test/mine/{CD}": 0.2}
    async_bn = stage1(0, trained_as="i0t_async")
    write_run("compared", numbers, rows={"mine": fitted, "async_bn": fitted, "async_bn_of_run": fitted}, model=async_bn)
    assert cell(2, "I0T_async", "CD").ours.values == (0.48,)
    write_run("alone", numbers, rows={"mine": fitted, "async_bn": fitted}, model=async_bn | {"seed": 1})
    assert cell(2, "I0T_async", "CD").ours.values == (0.48, 0.1)


def test_calibration_size_is_what_was_asked_for_and_draws_are_seeds(write_run, cell, posthoc):
    for seed, value in ((0, 0.18), (1, 0.20)):
        rows = {"posthoc": posthoc(fit_samples=32, seed=seed)}
        write_run(f"draw{seed}", {f"test/posthoc/{CD}": value}, rows=rows, model=stage1(0))
    write_run("all", {f"test/posthoc/{CD}": 0.01}, rows={"posthoc": posthoc(seed=3)}, model=stage1(0))
    asked = {"posthoc": posthoc(fit_samples=1000, seed=4)}
    write_run("thousand", {f"test/posthoc/{CD}": 0.02}, rows=asked, model=stage1(0))
    assert cell(3, "32", "CD").ours.values == (0.18, 0.20)
    assert cell(3, "64", "CD").ours.values == ()
    line = cell(3, "1k", "CD")
    assert line.ours.values == (0.02,)  # the draw of all images is no draw
    assert line.ours.remarks == ("1 older run of the same seed set aside",)
    assert cell(2, "I0T_post", "CD").ours.values == (0.02,)


def test_seeds_of_table_4(write_run, cell, row_of):
    rows = {"async_bn": row_of("AsyncBatchNorm", strength=1.0)}
    for seed, value in ((7, 0.4), (42, 0.5), (0, 9.0)):
        facts = stage1(seed, trained_as="i0t_async")
        write_run(f"seed{seed}", {f"test/async_bn/{CD}": value}, rows=rows, model=facts)
    assert cell(4, "async, seed 7", "CD").ours.values == (0.4,)
    assert not cell(4, "async, seed 71", "CD").ours.is_run
    line = cell(4, "async, all three", "CD")
    assert line.ours.values == (0.4, 0.5)
    assert line.published is None
    assert line.difference(line.ours) is None


def test_a_row_is_filled_from_several_runs(write_run, cell):
    write_run("photos", {f"test/none/{I2T}": 0.7})
    cifar = {"data": "cifar100", "num_images": 10_000, "templates": ["a {c}"] * 18}
    zero_shot = {"test/none/zeroshot_pooled_first/balanced/class": 0.65, "test/none/zeroshot/balanced/class": 0.5}
    write_run("cifar", zero_shot, data=cifar)
    taus = {"test/none/caption_correlation/tau_c_clipped": 0.512, "test/none/caption_correlation/tau_b_clipped": 0.9}
    judged = {"data": "flickr8k_expert", "prompt_prefix": "A photo depicts ", "self_pairs_kept": False}
    write_run("expert", taus, data=judged)
    for column, expected in {"I2T": 70, "CIFAR": 65, "Expert": 51.2}.items():
        line = cell(2, "CLIP", column)
        assert line.ours.values == pytest.approx((expected,))
        assert line.ours.deviations == ()
    assert not cell(2, "CLIP", "Bird").ours.is_run


@pytest.mark.parametrize(
    ("data", "deviation"),
    [
        ({"limit": 64, "num_images": 64}, "flickr30k: num_images is 64, under the paper's protocol 1,000"),
        ({"prompt_prefix": "a photo of "}, 'flickr30k: prompt_prefix is "a photo of ", under the paper\'s protocol ""'),
        ({"lowercase_first": True}, "flickr30k: lowercase_first is true, under the paper's protocol false"),
        ({"num_images": 100, "warnings": ["flickr30k test: 100 images"]}, "flickr30k test: 100 images"),
        ({"num_images": None}, "flickr30k: num_images is null, under the paper's protocol 1,000"),
    ],
)
def test_another_protocol_is_never_silent(write_run, cell, data, deviation):
    write_run("run", {f"test/none/{I2T}": 0.7}, data=data)
    line = cell(2, "CLIP", "I2T")
    assert line.ours.values == pytest.approx((70,))
    assert line.ours.deviations == (deviation,)
    assert deviation in line.notes


def test_a_model_of_another_architecture_stands_in_and_says_so(write_run, cell):
    write_run("run", {f"test/none/{CD}": 0.5}, model=stage1(0, architecture="tiny.json"))
    deviation = "another architecture than the paper's: tiny.json, not ViT-B-32-quickgelu"
    assert cell(1, "LCCOM", "CD").ours.deviations == (deviation,)


def test_runs_under_the_papers_protocol_go_before_newer_ones_that_are_not(write_run, cell):
    write_run("exact", {f"test/none/{CD}": 0.76})
    write_run("all_captions", {f"test/none/{CD}": 0.8}, data={"captions_per_image": None})
    write_run("limited", {f"test/none/{CD}": 0.9}, data={"limit": 10, "num_images": 10})
    line = cell(2, "CLIP", "CD")
    assert line.ours.values == (0.76,)
    assert line.ours.deviations == ()
    assert line.ours.remarks == ("2 runs further from the paper's protocol set aside",)


def test_first_captions_of_a_run_with_all_of_them(write_run, cell, row_of, posthoc):
    numbers = {
        f"test/{row}/{prefix}/i2t_r1": value
        for row, share in (("none", 0.6), ("posthoc", 0.7))
        for prefix, value in (("retrieval", share + 0.1), ("retrieval_1_caption", share))
    }
    rows = {"none": row_of(), "posthoc": posthoc()}
    all_captions = {"captions_per_image": None}
    write_run("clip", numbers, rows=rows, data=all_captions)
    write_run("stage1", numbers, rows=rows, data=all_captions, model=stage1(0))
    clip = cell(2, "CLIP", "I2T")
    assert clip.ours.values == pytest.approx((60,))
    assert clip.ours.deviations == ()  # nothing was fitted: the paper's number exactly
    post = cell(2, "I0T_post", "I2T")
    assert post.ours.values == pytest.approx((70,))
    assert len(post.ours.deviations) == 1
    assert "fitted on all captions" in post.ours.deviations[0]
    assert cell(5, "CLIP", "I2T").ours.values == pytest.approx((70,))
    assert cell(5, "I0T_post", "I2T").ours.values == pytest.approx((80,))


def test_five_captions_are_not_read_from_a_run_with_one(write_run, cell):
    write_run("run", {f"test/none/{I2T}": 0.7})
    line = cell(5, "CLIP", "I2T")
    assert line.ours.is_run
    assert line.ours.mean is None


def test_what_is_not_a_number_stays_one(write_run, cell):
    write_run("a", {f"test/none/{CD}": float("nan")}, model=stage1(0))
    write_run("b", {f"test/none/{CD}": 0.5}, model=stage1(1))
    line = cell(1, "LCCOM", "CD")
    assert math.isnan(line.ours.mean)
    assert math.isnan(line.ours.std)
    assert line.difference(line.ours) is None
