"""The page over a sweep's jobs as a reader uses it."""

import json
import shlex

import pytest

from i0t.report.sweep_files import write_sweep
from i0t.report.sweep_jobs import find_runs, read_runs
from i0t.report.table import MISSING

from ..run_folders import write_run, write_sweep_of_thirty

X, Y = "gap/centroid_distance", "retrieval/i2t_r1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_sweep_of_thirty(tmp_path_factory.mktemp("browser") / "sweep")
    write_sweep(read_runs(find_runs(folder)), folder, title="thirty <jobs>")
    return folder


@pytest.fixture
def page(open_page, folder):
    return ready(open_page(folder / "report.html"))


def ready(page):
    # Not wait_for_function: it asks again by evaluating a text inside the page, which the page's policy forbids.
    page.locator("html[data-ready=yes]").wait_for(state="attached")
    return page


def points_of(folder):
    """Every job and row with its numbers."""
    points = {}
    for path in folder.glob("*/metrics.json"):
        metrics = json.loads(path.read_text())
        for row in metrics["rows"]:
            prefix = f"test/{row}/"
            own = {name.removeprefix(prefix): v for name, v in metrics.items() if name.startswith(prefix)}
            points[path.parent.name, row] = own
    return points


def naive_front(points, costs, rows):
    """By the definition: no other is at least as good in all and better in one; transductive rows by themselves."""
    found = set()
    for key, own in points.items():
        same = [p for other, p in points.items() if (other[1] == "posthoc_test") == (key[1] == "posthoc_test")]
        same = [p for p in same if rows is None or key[1] == rows]
        mine = [cost(own) for cost in costs]
        others = [[cost(p) for cost in costs] for p in same]
        if not any(all(o <= m for o, m in zip(o, mine, strict=True)) and o != mine for o in others):
            found.add(key)
    return found


def column(page, name):
    """Texts of a column of the table of jobs."""
    return page.evaluate(
        """(name) => {
          const heads = [...document.querySelectorAll("#jobs thead th")].map((head) => head.textContent);
          const rows = [...document.querySelectorAll("#jobs tbody tr")];
          return rows.map((row) => row.cells[heads.indexOf(name)].textContent);
        }""",
        name,
    )


def front_in(page):
    """Job and row of every line on the front."""
    rows = page.evaluate(
        "[...document.querySelectorAll('#front tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return {(job, row) for job, row, *_ in rows}


def drawn(page, name):
    """A column of the scatter's sources, of all colours together."""
    return page.evaluate(
        f"[0,1,2,3,4,5,6,7].flatMap((i) => [...i0t.model('scatter', `points-${{i}}`).get_column('{name}')])"
    )


def test_a_column_sorts_both_ways_and_what_is_missing_stays_last(page, folder):
    shown = [f"{own[X]:.4f}" for own in points_of(folder).values()]
    page.get_by_role("button", name="CD", exact=True).click()
    assert column(page, "CD") == [*sorted(shown, key=float), MISSING, MISSING]
    head = page.locator("#jobs thead th[aria-sort]")
    assert (head.text_content(), head.get_attribute("aria-sort")) == ("CD", "ascending")
    page.keyboard.press("Enter")  # the button keeps the focus
    assert column(page, "CD") == [*sorted(shown, key=float, reverse=True), MISSING, MISSING]
    page.get_by_role("button", name="I→T R@1", exact=True).click()
    values = column(page, "I→T R@1")[:-2]
    assert values == sorted(values, reverse=True), "the best first: higher is better"
    page.get_by_role("button", name="optimizer.lr", exact=True).click()
    assert column(page, "optimizer.lr") == ["0.001"] * 41 + ["0.003"] * 45, "both jobs without rows have the lower rate"
    page.get_by_role("button", name="job", exact=True).click()
    assert column(page, "job")[-3:] == ["29"] * 3, "9 before 10"


def test_columns_are_chosen(page):
    assert "gap/alignment" not in page.locator("#jobs thead").text_content()
    page.get_by_text("Choose columns").click()
    page.get_by_role("checkbox", name="gap/alignment").check()
    page.get_by_role("checkbox", name="RMG").uncheck()
    heads = page.locator("#jobs thead th").all_text_contents()
    assert "gap/alignment" in heads
    assert "RMG" not in heads
    assert float(column(page, "gap/alignment")[0]) > 1
    texts = page.evaluate("i0t.model('parallel', 'names').get_column('text')")
    assert "gap/alignment ↓" in list(texts)
    assert "RMG ↓" not in list(texts)


def test_the_front_follows_the_axes_their_goals_and_the_filters(page, folder):
    points = points_of(folder)
    assert front_in(page) == naive_front(points, [lambda p: p[X], lambda p: -p[Y]], None)
    assert sorted(drawn(page, "x")) == pytest.approx(sorted(own[X] for own in points.values()))
    page.select_option("#axis-x", label="LS")
    separability = "gap/linear_separability"
    assert page.locator("#goal-x option").first.text_content() == "best at 0.5"
    assert front_in(page) == naive_front(points, [lambda p: abs(p[separability] - 0.5), lambda p: -p[Y]], None)
    page.select_option("#axis-y", label="retrieval/i2t_medr")  # ties
    costs = [lambda p: abs(p[separability] - 0.5), lambda p: p["retrieval/i2t_medr"]]
    assert front_in(page) == naive_front(points, costs, None)
    page.select_option("#goal-y", label="higher is better")
    costs[1] = lambda p: -p["retrieval/i2t_medr"]
    assert front_in(page) == naive_front(points, costs, None)
    page.select_option("#filter-row", label="none")
    own = {key: numbers for key, numbers in points.items() if key[1] == "none"}
    assert front_in(page) == naive_front(own, costs, "none")
    assert sorted(drawn(page, "y")) == sorted(p["retrieval/i2t_medr"] for p in own.values())
    page.select_option("#goal-y", label="neither is better")
    assert front_in(page) == set()
    assert "Say of both numbers which way is better" in page.locator("#front-note").text_content()


def test_words_choose_lines(page):
    page.locator("#filter-words").fill("loss=siglip seed=1 posthoc")
    assert page.locator("#filter-count").text_content() == "4 of 86 lines"
    assert set(column(page, "loss")) == {"siglip"}
    assert set(column(page, "row")) == {"posthoc", "posthoc_test"}
    page.keyboard.press("Enter")  # sends no form
    assert page.locator("#filter-count").text_content() == "4 of 86 lines"
    page.locator("#filter-words").fill("failed")
    assert column(page, "job") == ["7", "19"]
    page.locator("#filter-words").fill("nothing of this kind")
    assert column(page, "job") == []
    assert "None of the lines that are shown has I→T R@1." in page.locator("#best-said").text_content()


def test_colours_are_of_what_the_reader_chooses(page):
    assert page.locator("#legend li").all_text_contents() == ["none", "posthoc", "posthoc_test"]
    page.select_option("#color", label="loss")
    losses = ["clip", "cloob", "cyclip", "siglip", "uniformity_alignment"]
    assert page.locator("#legend li").all_text_contents() == losses
    counts = [len(page.evaluate(f"[...i0t.model('scatter', 'points-{i}').get_column('job')]")) for i in range(6)]
    assert counts == [18, 15 + 0, 15, 18, 18, 0], "jobs 7 (cyclip) and 19 (cloob) failed"


def said_after_copying(page):
    page.get_by_role("button", name="Copy").click()
    page.locator("#copied:not(:empty)").wait_for(state="attached")
    return page.locator("#copied").text_content()


def test_the_command_of_the_best_job_is_copied(page, folder):
    points = {key: own for key, own in points_of(folder).items() if key[1] != "posthoc_test"}
    page.select_option("#best-number", label="RMG")
    job, row = min(points, key=lambda key: points[key]["gap/rmg"])
    assert f"Job {job}, row {row}: RMG " in page.locator("#best-said").text_content()
    assert said_after_copying(page) == "Copied."
    page.locator("#filter-words").fill("")
    page.locator("#filter-words").focus()
    page.keyboard.press("Control+V")
    words = shlex.split(page.locator("#filter-words").input_value())
    assert words[:2] == ["python", "train.py"]
    assert words[-1] == "+note='<b>5 > 4</b>'"
    overrides = (folder / job / ".hydra" / "overrides.yaml").read_text()
    assert all(word.split("=")[1] in overrides for word in words[2:5])
    page.locator("#filter-words").fill("")
    page.select_option("#best-group", label="mad test, transductive")
    assert "row posthoc_test: RMG " in page.locator("#best-said").text_content()


@pytest.mark.parametrize(
    ("second_way", "said"), [("true", "Copied."), ("false", "Selected: copy it with the keyboard.")]
)
def test_a_browser_that_refuses_the_clipboard_has_the_command_selected(page, second_way, said):
    page.evaluate(
        f"""() => {{
          const refuse = async () => {{ throw new Error("refused"); }};
          Object.defineProperty(navigator, "clipboard", {{value: {{writeText: refuse}}}});
          document.execCommand = () => {second_way};
        }}"""
    )
    assert said_after_copying(page) == said
    assert page.evaluate("() => getSelection().toString()") == page.locator("#best-command").text_content()


def test_a_point_shows_its_job_with_markup_as_text(page):
    job = drawn(page, "job")[0]
    place = page.evaluate(
        """() => {
          const view = Bokeh.index.get_by_id(i0t.model("scatter", "x-range").document.roots()[0].id);
          const source = i0t.model("scatter", "points-0");
          const box = view.canvas_view.el.getBoundingClientRect();
          const at = (name) => source.get_column(name)[0];
          return [box.x + view.frame.x_scale.compute(at("x")), box.y + view.frame.y_scale.compute(at("y"))];
        }"""
    )
    page.evaluate("(y) => scrollTo(0, y - 300)", place[1])
    page.mouse.move(place[0], 300)
    tip = page.locator(".bk-tooltip-content").first
    tip.wait_for()
    assert job in tip.inner_text()
    assert "note" not in tip.inner_text(), "what all jobs share is left out"
    assert "nothing fitted" in tip.inner_text()


def test_texts_of_runs_are_texts_wherever_they_stand(open_page, tmp_path):
    evil = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    for i, text in enumerate(("plain", evil)):
        about = {f"{evil}{i}": {"protocol": "inductive", "fit_split": evil, "fit_samples": 3}}
        numbers = {f"{evil}{i}": {"gap/rmg": 0.5 + i, "retrieval/i2t_r1": 0.5, f"more/{evil}": 1.0}}
        write_run(tmp_path / str(i), [f"x={text}"], numbers, rows=about, data=evil)
    write_run(tmp_path / "2", [f"x={evil}2"], error=evil)
    page = ready(open_page(write_sweep(read_runs(find_runs(tmp_path)), tmp_path, title=evil).page))
    page.get_by_text("Choose columns").click()
    page.select_option("#color", value="x")
    assert page.locator("h1").inner_text() == evil
    assert evil in column(page, "x")
    assert page.locator("img").count() == 0
    assert page.locator("main script").count() == 0, "none that a text made"


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_scrolls_sideways_but_tables(open_page, folder, dark):
    page = ready(open_page(folder / "report.html", width=390, height=844, dark=dark))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert color == ("rgb(14, 17, 22)" if dark else "rgb(246, 247, 249)")
    fill = page.evaluate("i0t.model('scatter', 'x-axis').axis_label_text_color")
    assert fill == ("#e6e9ee" if dark else "#1f2328")


def test_without_scripts_the_tables_are_there(open_page, folder):
    page = open_page(folder / "report.html", javascript=False)
    assert page.locator("#jobs tbody tr").count() == 86
    assert page.locator("#filters").is_hidden()
    assert page.locator("#copy").is_hidden()
    assert "Without JavaScript the tables stand as they are" in page.locator("header").inner_text()
    assert "python train.py loss=" in page.locator("#best-command").inner_text()
