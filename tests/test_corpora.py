"""The corpora: always the same, of good form, and clear about what is missing. Downloads come from a local server."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import random
import re
import subprocess
import sys
import sysconfig
import threading
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymoe.text import arithmetic, corpora, tales
from tinymoe.text.grammar import parse, parse_table, with_articles, write

BUILT_IN = ["tales", "babel", "arithmetic", "python-docs", "python-code"]
DOWNLOADS = ["tiny-shakespeare", "tinystories", "gsm8k"]


# The built-in corpora


def test_names_and_descriptions() -> None:
    assert corpora.names() == BUILT_IN + DOWNLOADS
    for name in corpora.names():
        line = corpora.describe(name)
        assert "\n" not in line
        assert "Licence: " in line


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_limit_gives_the_beginning_of_the_same_text(name: str) -> None:
    some = corpora.documents(name, limit_chars=30_000)
    assert sum(map(len, some)) == 30_000
    assert all(some)
    assert corpora.documents(name, limit_chars=1_000) == _cut(some, 1_000)
    assert len(corpora.text(name, limit_chars=5_000)) == 5_000
    assert corpora.text(name, limit_chars=5_000) == "\n\n".join(some)[:5_000]


def test_only_the_endless_corpora_depend_on_the_seed() -> None:
    for name in BUILT_IN:
        same = corpora.text(name, limit_chars=2_000, seed=0) == corpora.text(name, limit_chars=2_000, seed=1)
        assert same == (name not in ("tales", "arithmetic"))


def test_without_a_limit_the_endless_corpora_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tales, "tale", lambda index, seed: f"tale {index}")
    assert corpora.documents("tales") == [f"tale {index}" for index in range(5_000)]


def test_python_docs_is_the_reference() -> None:
    text = corpora.text("python-docs")
    assert len(text) > 300_000
    assert 'The "assert" statement' in text


def test_python_code_is_the_standard_library_without_tests() -> None:
    documents = corpora.documents("python-code", limit_chars=6_000_000)
    assert len(documents) > 150
    assert any("class Abstract" in document for document in documents)
    assert not any("class TestCase_" in document for document in documents)
    assert all(document == document.strip() for document in documents[:-1])
    folder = Path(sysconfig.get_path("stdlib"))
    dataclasses = (folder / "dataclasses.py").read_text(encoding="utf-8").strip()
    assert dataclasses in corpora.documents("python-code")


def test_a_python_without_help_texts_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(FileNotFoundError, match="this Python carries no help texts"):
        corpora.documents("python-docs")


def test_python_code_is_read_from_a_zip_file_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "python3"))
    with pytest.raises(FileNotFoundError):
        corpora.documents("python-code")
    (tmp_path / "python3").mkdir()
    with pytest.raises(FileNotFoundError, match="no source code"):
        corpora.documents("python-code")
    version = sysconfig.get_python_version().replace(".", "")
    with zipfile.ZipFile(tmp_path / f"python{version}.zip", "w") as library:
        library.writestr("b.py", "# coding: latin-1\r\nb = '\xe9'\r\n".encode("latin-1"))
        library.writestr("a/x.py", "x = 1\n")
        library.writestr("a/empty.py", "")
        library.writestr("test/y.py", "y = 1\n")
        library.writestr("c.pyc", "c")
    assert corpora.documents("python-code") == ["x = 1", "# coding: latin-1\nb = 'é'"]


# babel


def test_babel_tells_the_same_texts_in_many_languages_and_scripts() -> None:
    texts = corpora.babel()
    assert len(texts) >= 12
    assert len({len(documents) for documents in texts.values()}) == 1
    for language, documents in texts.items():
        told = " ".join(documents[:11])
        assert len(re.findall(r"[.!?。！？।؟;]", told)) >= 60, language
        assert 18_000 < len("\n\n".join(documents).encode()) < 60_000, language
        assert len(set(documents)) > 0.95 * len(documents), language
        assert not re.search(r"[{}<>\[\]|]|  ", "".join(documents)), language


def test_each_language_of_babel_is_written_in_its_script() -> None:
    scripts = {"russian": "CYRILLIC", "greek": "GREEK", "arabic": "ARABIC", "hebrew": "HEBREW", "hindi": "DEVANAGARI"}
    scripts |= {"chinese": "CJK", "korean": "HANGUL"}
    for language, documents in corpora.babel().items():
        used = {unicodedata.name(char).split()[0] for char in "".join(documents) if char.isalpha()}
        if language == "japanese":
            assert used == {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"}
        else:
            assert used == {scripts.get(language, "LATIN")}, language


def test_every_part_of_babel_speaks_all_languages() -> None:
    documents = corpora.documents("babel")
    languages = corpora.babel()
    assert Counter(documents) == Counter(document for texts in languages.values() for document in texts)
    first_round = documents[: len(languages)]
    assert first_round == [texts[0] for texts in languages.values()]


# tales


@pytest.fixture(scope="module")
def some_tales() -> list[str]:
    return [tales.tale(index) for index in range(1_500)]


def test_tales_are_fixed_for_ever(some_tales: list[str]) -> None:
    digest = hashlib.sha256("\n\n".join(some_tales[:200]).encode()).hexdigest()
    in_a_new_process = (
        "from tinymoe.text import tales as t; print('\\n\\n'.join(t.tale(i) for i in range(200)), end='')"
    )
    told = subprocess.run([sys.executable, "-c", in_a_new_process], capture_output=True, check=True).stdout
    assert hashlib.sha256(told.replace(b"\r\n", b"\n")).hexdigest() == digest
    assert len(set(some_tales)) == len(some_tales)
    assert tales.tale(0, seed=1) != some_tales[0]


def test_tales_have_their_length_and_many_words(some_tales: list[str]) -> None:
    lengths = [len(tale.split()) for tale in some_tales]
    assert min(lengths) >= 80
    assert max(lengths) <= 250
    words = {word.lower() for tale in some_tales for word in re.findall(r"[A-Za-z]+", tale)}
    assert len(words) >= 2_500


def test_every_plot_can_be_told() -> None:
    teller = tales.storyteller()
    assert len({plot.title for plot in teller.plots}) == len(teller.plots) >= 40
    for plot in teller.plots:
        alone = tales.Storyteller(teller.tables, [plot])
        told = {alone.tell(random.Random(seed)) for seed in range(20)}
        assert len(told) == 20, plot.title


def test_tales_are_well_formed(some_tales: list[str]) -> None:
    wrong = re.compile(
        r"[{}<>\[\]|~_]|  |\b(\w+) \1\b|,,|\.\.|[?!]\.|\.,| [,.!?]|\b[Aa] [aeio]|\b[Aa]n [^aeiouh]|\"\"|[^\x20-\x7e\n]"
    )
    for tale in some_tales:
        assert not (found := wrong.search(tale)), tale[max(0, found.start() - 40) : found.end() + 40]
        for paragraph in tale.split("\n"):
            assert paragraph.count('"') % 2 == 0, paragraph
            assert re.match(r'["A-Z]', paragraph), paragraph
            assert re.search(r'[.!?]"?$', paragraph), paragraph
            assert not re.search(r"[.!?] [a-z]", paragraph), paragraph


@pytest.mark.parametrize("sex", ["girl", "boy"])
def test_who_is_he_and_who_is_she_stays_the_same(sex: str) -> None:
    """In a plot without other people of the hero's sex, the hero's pronoun is the only one outside of speech."""
    teller = tales.storyteller()
    plot = next(plot for plot in teller.plots if plot.title == "the seed")
    hero, friend = tales._PRONOUNS[sex], tales._PRONOUNS["boy" if sex == "girl" else "girl"]
    only = tales.Plot("test", sex, {}, [[parse("{He} {him} {his} {himself} {friend.he} {friend.his} {parent.he}.")]])
    scene = tales.Storyteller(teller.tables, [only, plot])._scene(only, random.Random(0))
    told = write(only.beats[0][0], random.Random(0), scene)
    expected = [hero["he"].capitalize(), hero["him"], hero["his"], hero["himself"]]
    assert told == " ".join([*expected, friend["he"], friend["his"], friend["he"]]) + "."


def test_names_in_a_tale_differ_and_an_animal_does_not_meet_its_like() -> None:
    teller = tales.storyteller()
    for plot in teller.plots:
        for seed in range(30):
            scene = teller._scene(plot, random.Random(seed))
            names = [scene[who]["name"] for who in ("hero", "friend", "parent")]
            names += [scene["name"]["name"]] if "name" in scene else []
            assert len(set(names)) == len(names)
            if plot.hero not in ("child", "girl", "boy"):
                assert scene["hero"]["noun"] != scene["friend"]["noun"]


def test_a_lost_thing_is_found_where_the_scene_says() -> None:
    teller = tales.storyteller()
    plot = next(plot for plot in teller.plots if plot.title == "the lost toy")
    alone = tales.Storyteller(teller.tables, [plot])
    for seed in range(50):
        scene = alone._scene(plot, _after_pick(seed))
        tale = alone.tell(random.Random(seed))
        thing, color = scene["thing"]["name"][0], scene["color"]["name"][0]
        where = write(scene["spot"]["where"], random.Random(0), scene)
        assert re.search(f"{where},? lay the {color} {thing}!", tale, re.IGNORECASE), tale
        assert tale.count(write(scene["hero"]["name"], random.Random(0))) >= 3


def _after_pick(seed: int) -> random.Random:
    rng = random.Random(seed)
    rng.random()  # the draw of the plot
    return rng


def test_a_line_of_the_grammar_that_means_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="means nothing"):
        tales._read("what is this\n", tales.Storyteller())
    with pytest.raises(ValueError, match="cannot be read"):
        tales._read("table of things\n", tales.Storyteller())
    with pytest.raises(ValueError, match="only 1 of them"):
        tales._read("table pet: noun\n    cat\n\nsubset small of pet: cat, dog\n", tales.Storyteller())


# The grammar's language


def test_slots_choices_and_draws() -> None:
    tables = {"color": parse_table(["name"], ["red"]), "treat": parse_table(["one", "many"], ["bun / buns"])}
    scene = {"thing": {"name": parse("[kite|kite]"), "size": parse("big")}}
    told = write(parse("{Thing}: a <color> {thing.size} {thing}, <Treat.many>."), random.Random(0), scene, tables)
    assert told == "Kite: a red big kite, Buns."


def test_choices_are_all_made_and_nest() -> None:
    text = parse("[a|b[c|d]|]")
    assert {write(text, random.Random(seed)) for seed in range(60)} == {"a", "bc", "bd", ""}


@given(st.text(alphabet=st.characters(exclude_characters="[]|{}<>")))
def test_plain_text_is_told_as_it_is(text: str) -> None:
    assert write(parse(text), random.Random(0)) == text


@pytest.mark.parametrize("text", ["[a|b", "a]", "a|b", "[a]]"])
def test_brackets_have_to_match(text: str) -> None:
    with pytest.raises(ValueError, match="bracket"):
        parse(text)


def test_a_row_has_to_have_all_fields() -> None:
    with pytest.raises(ValueError, match="has 1 fields"):
        parse_table(["one", "many"], ["bun"])


def test_articles() -> None:
    assert with_articles("a owl and a fox, A elm, a unicorn, a one, a useful umbrella, a umbrella") == (
        "an owl and a fox, An elm, a unicorn, a one, a useful umbrella, an umbrella"
    )


# arithmetic


@pytest.mark.parametrize("kind", arithmetic.KINDS)
@pytest.mark.parametrize("level", [1, 2, 4])
def test_every_equation_is_true_and_leads_to_the_answer(kind: str, level: int) -> None:
    for index in range(150):
        problem = arithmetic.problem(index, kinds=[kind], level=level)
        assert problem == arithmetic.problem(index, kinds=[kind], level=level)
        assert problem.kind == kind
        equations = re.findall(r"([\d+*/ -]*\d) = (\d+)", "\n".join(problem.steps))
        assert equations or kind == "comparison", problem.text
        for left, right in equations:
            assert _value(left) == int(right), problem.text
        assert problem.text.startswith(f"Question: {problem.question}\n")
        assert problem.text.endswith(f"\nAnswer: {problem.answer}")
        assert _check(problem), problem.text


def test_arithmetic_chooses_kinds_levels_and_collections() -> None:
    stream = arithmetic.problems(seed=3)
    first = [next(stream) for _ in range(400)]
    assert {problem.kind for problem in first} == set(arithmetic.KINDS)
    assert first[5] == arithmetic.problem(5, seed=3)
    assert first[:50] != [arithmetic.problem(index, seed=4) for index in range(50)]
    small = arithmetic.problem(0, kinds=["addition"], level=1)
    assert max(map(int, re.findall(r"\d+", small.question))) <= 9
    with pytest.raises(ValueError, match=r"'algebra'.*addition"):
        arithmetic.problem(0, kinds=["algebra"])
    with pytest.raises(ValueError, match="level is 7"):
        arithmetic.problem(0, level=7)


# Files and folders


def test_a_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "notes.text"
    path.write_bytes("\ufeffeins\r\nzwei ü\n".encode())
    assert corpora.documents(path) == corpora.documents(str(path)) == ["eins\nzwei ü\n"]
    assert corpora.text(path, limit_chars=6) == "eins\nz"


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "one.md").write_text("b one")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "c.py").write_text("c = 1")
    (tmp_path / "d.jsonl").write_text('{"text": "d1"}\n\n{"text": "d2", "id": 3}\n')
    (tmp_path / "empty.txt").write_text("\n")
    for ignored in ("picture.png", ".hidden.txt", ".git/e.txt"):
        (tmp_path / ignored).write_bytes(b"\xff")
    assert corpora.documents(tmp_path) == ["a", "b one", "c = 1", "d1", "d2"]


def test_a_corpus_wins_over_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tales").write_text("mine")
    Path("mine").write_text("also mine")
    assert corpora.documents("tales", limit_chars=10) == [tales.tale(0)[:10]]
    assert corpora.documents("./tales") == corpora.documents(Path("tales")) == ["mine"]
    assert corpora.documents("mine") == ["also mine"]


def test_bad_input_is_answered_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    Path("latin.txt").write_bytes("schön".encode("latin-1"))
    Path("broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    Path("other.jsonl").write_text('{"body": "a"}\n')
    Path("folder").mkdir()
    Path("folder", "picture.png").write_bytes(b"\xff")
    table: list[tuple[str, type[Exception], str]] = [
        ("tails", ValueError, "no corpus or file called 'tails'. Did you mean 'tales'?.*python-docs.*gsm8k"),
        ("zzzzzz", ValueError, "no corpus or file called 'zzzzzz'. The corpora are"),
        ("missing.txt", FileNotFoundError, "no file or folder 'missing.txt'"),
        ("./tales", FileNotFoundError, "tales"),
        ("empty.txt", ValueError, "'empty.txt' is empty"),
        ("latin.txt", ValueError, "'latin.txt' is not UTF-8 text: byte 3 is 0xf6"),
        ("broken.jsonl", ValueError, "line 2 of 'broken.jsonl' is not JSON"),
        ("other.jsonl", ValueError, "line 1 of 'other.jsonl' has no field \"text\""),
        ("folder", ValueError, "'folder' has no text in files that end in .txt, .md, .py, .jsonl"),
    ]
    for name, error, words in table:
        with pytest.raises(error, match=words) as caught:
            corpora.documents(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="limit_chars is 0"):
        corpora.documents("tales", limit_chars=0)
    with pytest.raises(ValueError, match="'nothing'"):
        corpora.describe("nothing")


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(corpora.os, "scandir", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        corpora.documents(tmp_path)


# Downloads


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder served on this machine, which downloads come from; `requests` says what was asked for."""
    folder = tmp_path / "server"
    folder.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code: object = "-", size: object = "-") -> None:
            asked.append(self.path)

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("TINYMOE_DATA", str(tmp_path / "data"))
        monkeypatch.setenv("TINYMOE_MIRROR", f"http://127.0.0.1:{httpd.server_port}/")
        yield _Server(folder, tmp_path / "data", asked)
        httpd.shutdown()
        thread.join()


class _Server:
    def __init__(self, folder: Path, data: Path, asked: list[str]) -> None:
        self.folder, self.data, self.asked = folder, data, asked

    def put(self, name: str, content: str) -> str:
        download = corpora._DOWNLOADS[name]
        (self.folder / download.file).write_bytes(content.encode())
        return hashlib.sha256(content.encode()).hexdigest()


def _expect(monkeypatch: pytest.MonkeyPatch, name: str, sha256: str | None) -> None:
    old = corpora._DOWNLOADS[name]
    monkeypatch.setitem(corpora._DOWNLOADS, name, corpora.Download(old.file, old.url, sha256))


def test_the_known_sums_and_pinned_addresses() -> None:
    for name in ("tiny-shakespeare", "gsm8k"):
        download = corpora._DOWNLOADS[name]
        assert re.fullmatch(r"[0-9a-f]{64}", download.sha256 or "")
        assert re.match(r"https://raw.githubusercontent.com/[\w-]+/[\w-]+/[0-9a-f]{40}/", download.url)


def test_a_download_is_kept(server: _Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    _expect(monkeypatch, "tiny-shakespeare", server.put("tiny-shakespeare", "First Citizen:\nSpeak.\n"))
    assert corpora.documents("tiny-shakespeare") == ["First Citizen:\nSpeak.\n"]
    assert "100%" in capsys.readouterr().err  # the progress bar
    assert corpora.text("tiny-shakespeare") == "First Citizen:\nSpeak.\n"
    assert server.asked == ["/tinyshakespeare.txt"]
    assert [path.name for path in server.data.iterdir()] == ["tinyshakespeare.txt"]


def test_gsm8k_and_tinystories_are_split_into_documents(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = {"question": "Two and two?", "answer": "2 + 2 = 4\n#### 4"}
    _expect(monkeypatch, "gsm8k", server.put("gsm8k", json.dumps(problem) + "\n" + json.dumps(problem) + "\n"))
    assert corpora.documents("gsm8k") == ["Question: Two and two?\nAnswer: 2 + 2 = 4\n#### 4"] * 2
    server.put("tinystories", "Once.\n<|endoftext|>\nTwice.\n<|endoftext|>\n")
    assert corpora.documents("tinystories") == ["Once.", "Twice."]


def test_a_sum_that_nobody_published_is_recorded_and_kept_to(server: _Server) -> None:
    sha256 = server.put("tinystories", "Once upon a time.")
    path = corpora.fetch("tinystories")
    record = path.with_name(path.name + ".sha256")
    assert record.read_text().strip() == sha256
    path.unlink()
    server.put("tinystories", "Another text.")
    with pytest.raises(ValueError, match=f"not the file that 'tinystories' should be.*expected {sha256}"):
        corpora.fetch("tinystories")
    assert not path.exists()
    server.put("tinystories", "Once upon a time.")
    assert corpora.documents("tinystories") == ["Once upon a time."]


def test_a_file_that_was_put_there_by_hand_is_taken(server: _Server) -> None:
    server.data.mkdir()
    (server.data / "TinyStories-valid.txt").write_text("By hand.")
    assert corpora.documents("tinystories") == ["By hand."]
    assert (server.data / "TinyStories-valid.txt.sha256").exists()
    assert server.asked == []


def test_a_spoiled_file_is_fetched_again(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    _expect(monkeypatch, "tiny-shakespeare", server.put("tiny-shakespeare", "good"))
    path = corpora.fetch("tiny-shakespeare")
    path.write_text("spoiled")
    assert corpora.text("tiny-shakespeare") == "good"
    assert len(server.asked) == 2


def test_a_wrong_download_is_refused_and_nothing_is_left(server: _Server) -> None:
    server.put("tiny-shakespeare", "not Shakespeare")
    with pytest.raises(ValueError, match=r"its SHA-256 is [0-9a-f]{64}, expected 86c4e6aa"):
        corpora.fetch("tiny-shakespeare")
    assert list(server.data.iterdir()) == []


def test_without_network_one_line_names_what_is_built_in(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match=r"'gsm8k' could not be downloaded from .*\(HTTP 404\)"):
        corpora.documents("gsm8k")
    monkeypatch.setenv("TINYMOE_MIRROR", "http://127.0.0.1:9")  # nobody listens there
    for name in DOWNLOADS:
        with pytest.raises(ConnectionError) as caught:
            corpora.documents(name)
        assert "\n" not in str(caught.value)
        assert all(built_in in str(caught.value) for built_in in BUILT_IN)
    assert list(server.data.iterdir()) == []


def test_without_pooch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setenv("TINYMOE_DATA", str(tmp_path))
    with pytest.raises(ConnectionError, match=r"pip install pooch tqdm.*tales"):
        corpora.documents("gsm8k")
    monkeypatch.delenv("TINYMOE_DATA")
    assert corpora.data_folder().name == "tinymoe"


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TINYMOE_DATA", raising=False)
    assert corpora.data_folder().name == "tinymoe"
    monkeypatch.setenv("TINYMOE_DATA", str(tmp_path))
    assert corpora.data_folder() == tmp_path
    with pytest.raises(ValueError, match=r"'tales' is not a corpus that is downloaded.*gsm8k"):
        corpora.fetch("tales")


def test_importing_the_corpora_imports_no_downloader() -> None:
    code = "import sys, tinymoe.text.corpora; print([m for m in ('pooch', 'requests', 'tqdm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


def _cut(documents: list[str], limit: int) -> list[str]:
    cut = []
    for document in documents:
        if limit <= 0:
            break
        cut.append(document[:limit])
        limit -= len(document)
    return cut


def _value(expression: str) -> float:
    """The value of numbers joined by + - * /, worked out by hand."""
    total, product = 0.0, None
    sign = 1
    operator = "*"
    for token in expression.split():
        if token in "+-":
            total += sign * (product or 0)
            sign, product, operator = (1 if token == "+" else -1), None, "*"
        elif token in "*/":
            operator = token
        else:
            number = float(token)
            product = number if product is None else product * number if operator == "*" else product / number
    return total + sign * (product or 0)


def _check(problem: arithmetic.Problem) -> bool:
    """Whether the answer is right, as worked out from the question's own numbers."""
    n = [int(number) for number in re.findall(r"\d+", problem.question)]
    question = problem.question
    match problem.kind:
        case "addition":
            return int(problem.answer) == n[0] + n[1]
        case "subtraction":
            return int(problem.answer) == n[0] - n[1] >= 0
        case "multiplication":
            return int(problem.answer) == n[0] * n[1]
        case "division":
            quotient, rest = divmod(n[0], n[1])
            return problem.answer == (f"{quotient} remainder {rest}" if rest else str(quotient))
        case "precedence":
            expected = (n[0] + n[1]) * n[2] if "(" in question else n[0] + n[1] * n[2]
            return int(problem.answer) == expected
        case "comparison":
            return int(problem.answer) == (max(n) if "larger" in question else min(n))
        case "sequence":
            nexts = {n[3] + n[3] - n[2]} if n[1] - n[0] == n[2] - n[1] else {n[3] * n[3] // n[2]}
            return int(problem.answer) in nexts
        case "fraction":
            top, bottom = map(int, problem.answer.split("/"))
            return n[0] * bottom == n[1] * top and all(top % d or bottom % d for d in range(2, bottom + 1))
        case "percent":
            return int(problem.answer) * 100 == n[0] * n[1]
        case "equation":
            return n[0] * int(problem.answer) + n[1] == n[2]
        case "clock":
            hours, minutes = map(int, problem.answer.split(":"))
            return hours * 60 + minutes == n[0] * 60 + n[1] + n[2] < 24 * 60
        case "shopping":
            return int(problem.answer) == n[3] - n[0] * n[1] - n[2] >= 0
        case "sharing":
            return int(problem.answer) * n[2] == n[0] - n[1]
        case "saving":
            return int(problem.answer) * n[2] == n[0] - n[1]
        case "trading":
            return int(problem.answer) == (n[0] - n[1] + n[2]) * (1 + n[3])
        case "travel":
            return int(problem.answer) == n[0] * n[1] + n[2]
        case "rectangle":
            area = "area" in question
            return int(problem.answer) == (n[0] * n[1] if area else 2 * (n[0] + n[1]))
    return False
