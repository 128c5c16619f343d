"""The pages that tools/booktools makes: from small texts, and from the chapters as they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("anywidget")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from booktools import chapters as dressing  # noqa: E402
from booktools import landing, lean, papers, plans, reference  # noqa: E402
from booktools.course import read_course  # noqa: E402
from chaptertools.notebooks import Chapter, read_chapters  # noqa: E402
from chaptertools.package import Package  # noqa: E402

import book  # noqa: E402

sys.path.remove(str(ROOT / "tools"))


def _config(**course):
    facts = {"title": "T", "minutes": 90, "builds": "b", "explains": "e", "teaser": "t"}
    chapters = {"00_one": facts | {"needs": []}, "01_two": facts | {"needs": ["00"]}}
    pages = [{"file": "chapters/00_one"}, {"file": "chapters/01_two"}]
    toc = {"root": "index", "parts": [{"caption": "P", "chapters": pages}, {"caption": "Q", "chapters": []}]}
    return {"toc": toc, "course": {"repository": "", "branch": "main", "chapters": chapters} | course}


@pytest.fixture
def course(tmp_path, monkeypatch):
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "times.json").write_text('{"01_two.ipynb": {"seconds": 42, "processor": "x"}}')
    return lambda lite=False, **section: read_course(_config(**section), tmp_path / "times.json", lite=lite)


@pytest.fixture
def chapter(tmp_path):
    def make(*cells):
        nodes = [
            nbformat.v4.new_markdown_cell(text[3:]) if text.startswith("md:") else nbformat.v4.new_code_cell(text)
            for text in cells
        ]
        file = tmp_path / "01_two.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=nodes), file)
        return Chapter(file)

    return make


def test_times_and_parts(course):
    one, two = course().chapters
    assert [caption for caption, _ in course().parts] == ["P"]
    assert (one.number, one.reading, one.running) == ("00", "1½ h", "")
    assert (two.needs, two.running) == (("00",), "42 s")


def test_links_follow_the_one_address(course, monkeypatch):
    first = course().chapters[0]
    assert course().places_to_run(first, "") == [] and course().source_url("a.py") == ""
    assert course(lite=True).places_to_run(first, "../") == [
        ("run in the browser", "../lite/notebooks/index.html?path=chapters/00_one.ipynb")
    ]
    published = course(repository="https://github.com/me/it/")
    assert [words for words, _ in published.places_to_run(first, "")] == ["Colab", "Binder"]
    assert published.source_url("a.py", (3, 5)) == "https://github.com/me/it/blob/main/a.py#L3-L5"
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "you/fork")
    assert course().repository == "https://github.com/you/fork"
    assert course(repository="https://github.com/me/it").repository == "https://github.com/me/it"


def test_a_chapter_that_is_nowhere(course):
    chapters = _config()["course"]["chapters"]
    with pytest.raises(ValueError, match="course says nothing"):
        course(chapters={"00_one": chapters["00_one"]})
    with pytest.raises(ValueError, match="toc does not name"):
        course(chapters=chapters | {"02_three": chapters["00_one"]})
    with pytest.raises(ValueError, match="needs 09"):
        course(chapters=chapters | {"01_two": chapters["01_two"] | {"needs": ["09"]}})


def test_papers_are_listed_once(chapter):
    entries = "- A. One. 2017.\n  arXiv:1701.06538\n- B: *Two.* NeurIPS 2019, arXiv 1910.07467.\n- C. Old. 1951."
    listed = papers.collect([chapter("md:# 01", f"md:## References\n\n{entries}")])
    assert [(paper.year, paper.text[:1], paper.chapters) for paper in listed] == [
        (2019, "B", ["01"]), (2017, "A", ["01"]), (1951, "C", ["01"]),
    ]  # fmt: skip
    both = "- X. Both. 2019. arXiv:1910.07467; Other. 2020. arXiv:2001.00001\n- B. Two. 2019. arXiv:1910.07467"
    listed = papers.collect([chapter("md:# 01", f"md:## References\n\n{both}")])
    assert [paper.text for paper in listed] == ["Other. 2020. arXiv:2001.00001", "B. Two. 2019. arXiv:1910.07467"]


def test_arxiv_numbers_and_addresses_become_links():
    assert dressing.link_papers("see arXiv:1701.06538.") == "see [arXiv:1701.06538](https://arxiv.org/abs/1701.06538)."
    assert dressing.link_papers("see https://x.org/a-b.") == "see <https://x.org/a-b>."
    numbers = ("`arXiv:1701.06538`", "[arXiv:1701.06538](x)", "no number: arXiv")
    for kept in (*numbers, "[x](https://x.org)", "<https://x.org>"):
        assert dressing.link_papers(kept) == kept


def test_what_the_book_adds_to_a_chapter(course, chapter):
    package = Package(ROOT / "tinymoe")
    made = chapter(
        "md:# 01 · Two",
        '@exercise("09.top_k_routing")\ndef top_k_routing(logits, k):\n    ...',
        'hint("09.top_k_routing")',
        "# tinymoe: nn/moe.py::MoE\nclass MoE:\n    ...",
        'plt.imshow(x, cmap="RdBu_r")',
    )
    cells = dressing.dress(made, course().chapters[1], course(lite=True), package).cells
    assert "run in the browser" in cells[1].source
    assert cells[3].source == 'hint("09.top_k_routing")'
    assert "A solution" in cells[4].source and "def top_k_routing" in cells[4].source
    assert cells[5].metadata.tags == ["package"] and cells[6].metadata.tags == ["light-figure"]
    assert '<a href="../reference/nn-moe.html#MoE"><code>MoE</code></a>' in cells[-1].source


def test_what_has_no_place_in_the_reference():
    package = Package(ROOT / "tinymoe")
    assert reference.address(package, "ops.py", "rms_norm", "../") == "../reference/ops.html#rms_norm"
    assert reference.address(package, "ops.py", "_private", "") == "reference/ops.html"
    assert reference.address(package, "__init__.py", "use", "") == ""


def test_docstrings_are_taken_literally():
    text = "Of `a*b` and a*b, x[0] <i> $5.\n\n    code * stays"
    assert reference.docstring_text(text) == "Of `a*b` and a\\*b, x\\[0\\] \\<i\\> \\$5.\n\n    code * stays"


def test_plans(course):
    table = plans.fill_plans("before\n<!-- plan: 00 01 | 01 -->", course())
    assert "| 1 | [00 T](/chapters/00_one.ipynb), [01 T](/chapters/01_two.ipynb) | 3 | e; e |" in table
    assert "**4½**" in table
    with pytest.raises(ValueError, match="no chapter 07"):
        plans.fill_plans("<!-- plan: 07 -->", course())


def test_the_first_page_shows_a_trained_model():
    first = read_chapters(ROOT / "chapters", ["00"])[0]
    state = landing.explorer_state(first)
    assert len(state["tokens"]) > 100 and set(state["buffers"]) == {"scores", "choices"}
    assert "import {" not in landing.landing_script() and "export " not in landing.landing_script()


def test_readme_has_the_table_of_book_yml():
    table = landing.readme_table(read_course(book.read_config(), ROOT / "book" / "times.json"))
    assert table in (ROOT / "README.md").read_text("utf-8"), "run: python tools/book.py readme"


def test_every_chapter_is_in_the_book():
    known = {chapter.stem for chapter in read_course(book.read_config(), ROOT / "book" / "times.json").chapters}
    assert known == {path.stem for path in (ROOT / "chapters").glob("*.ipynb")}


def test_pages_are_slim():
    icons = '<script src="_static/vendor/fontawesome/6.5.2/js/all.min.js?digest=1"></script>'
    math = '<script defer src="_static/mathjax/tex-chtml-full.js?v=1"></script>'
    assert lean.slim_page(f"<head>{icons}{math}</head>") == "<head></head>"
    assert math in lean.slim_page(f'<head>{math}</head><span class="math notranslate">x</span>')
    button = '<button class="btn search-button-field search-button__button"\n title="Search" aria-label="Search">Search'
    assert lean.slim_page(button) == button.replace(' aria-label="Search"', "")


def test_scripts_wait_for_the_page():
    page = '<script src="_static/{}.js?v=1"></script><script>let here = 1;</script>'.format
    assert lean.slim_page(page("doctools")) == page("doctools").replace("<script src", '<script defer="defer" src')
    module = '<script type="module" async>import "src=x";</script><script async src="x.js"></script>'
    assert lean.slim_page(module) == module
    options = "<script>const OPTIONS = 1;</script>"
    assert lean.slim_page(page("documentation_options"), options) == f"{options}<script>let here = 1;</script>"
    font = '<link rel="preload" as="font" href="_static/vendor/fontawesome/6.5.2/webfonts/fa-solid-900.woff2" />'
    assert lean.slim_page(f"<head>{font}</head>") == "<head></head>"


def test_style_sheets_keep_the_rules_that_could_match():
    pytest.importorskip("tinycss2")
    sheet = (
        "/*! License */ /* note */ a{b:c} .used,.gone>.used,p:is(.gone,.used):not(.gone){d:e}"
        "@media print{.gone{f:g}} @media (width > 1px){.used[data-x='.gone']:hover{h:i}} .gone{j:k}"
        "@font-face{font-family:l}"
    )
    used = lean.words('<p class="used">')
    assert lean.slim_sheet(sheet, used).splitlines() == [
        "/*! License */", "a{b:c}", ".used,p:is(.gone,.used):not(.gone){d:e}", "@media (width > 1px){",
        '.used[data-x=".gone"]:hover{h:i}', "}", "@font-face{font-family:l}",
    ]  # fmt: skip


def test_figures_get_a_palette_where_that_is_smaller(tmp_path):
    image = pytest.importorskip("PIL.Image")
    figure = tmp_path / "plot.png"
    image.effect_mandelbrot((200, 200), (-2, -1, 1, 1), 60).convert("RGBA").save(figure)
    before = figure.stat().st_size
    lean.slim_figure(figure)
    with image.open(figure) as after:
        assert after.mode == "P" and after.size == (200, 200)
    assert figure.stat().st_size < before and list(tmp_path.iterdir()) == [figure]


def test_saved_widgets_get_the_scripts_of_today():
    notebook = read_chapters(ROOT / "chapters", ["00"])[0].notebook
    states = notebook.metadata["widgets"][dressing.WIDGETS]["state"]
    explorer = next(
        one["state"] for one in states.values() if "RoutingExplorer" in one["state"].get("_anywidget_id", "")
    )
    tokens = explorer["tokens"]
    explorer["_esm"] = "an old one"
    dressing.refresh_widgets(notebook)
    assert "function render" in explorer["_esm"] and ".tm-" in explorer["_css"] and explorer["tokens"] == tokens
