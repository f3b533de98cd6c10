"""The README and the pages: every block runs, every name is there, every link leads on.

The Python blocks are doctests, which pytest collects from the Markdown files itself.
A block that cannot run says why in a comment before it: ``<!-- not run: ... -->``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
import yaml

import intake_idc
from intake_idc import errors, readers
from intake_idc.cli import command

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
REFERENCE = {page.stem: page.read_text("utf-8") for page in DOCS.glob("reference/*.md")}

OPT_OUT = re.compile(r"<!-- not run: (.+) -->\n\Z")
FENCED = re.compile(
    r"^(?P<fence>`{3,})(?P<language>[^\s`]*)\n(?P<text>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
SHELLS = {"sh", "bash", "shell", "console"}


def name_of(path):
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None
    """Why it is not run, where it is not."""

    def __str__(self):
        return f"{name_of(self.page)}:{self.line}"


def blocks_of(page):
    text = page.read_text("utf-8")
    for found in FENCED.finditer(text):
        before = text[: found.start()]
        comment = OPT_OUT.search(before)
        reason = comment[1] if comment else None
        line = before.count("\n") + 1
        yield Block(page, line, found["language"], found["text"], reason)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def command_lines(block):
    """Lines that begin with the command, those that go on with a backslash joined."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("intake-idc"):
            yield line


def prose_of(page):
    """A page without its blocks and comments."""
    text = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.DOTALL)
    return FENCED.sub("", text)


def anchors_of(page):
    titles = re.findall(r"^#{1,3} (.+)$", prose_of(page), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in words}


# Blocks.


def test_there_are_pages_and_blocks():
    assert len(PAGES) > 20
    assert {"python", "sh"} <= {block.language for block in BLOCKS}


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language in {"python", "pycon", "py"}], ids=str
)
def test_a_python_block_is_a_doctest_or_says_why_not(block):
    if block.reason is not None:
        compile(block.text, str(block), "exec")
        return
    assert block.text.startswith(">>> "), "write it as a doctest, or say why not"
    # Without it the closing fence would be taken for expected output.
    assert block.text.endswith("\n\n"), "a doctest ends with an empty line"


@pytest.mark.parametrize("block", [b for b in BLOCKS if any(command_lines(b))], ids=str)
def test_a_block_with_the_command_is_shell(block):
    assert block.language in SHELLS


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_runs(page, tmp_path):
    """In the order of the page, in one folder, with no way out of the machine."""
    lines = [
        line
        for block in BLOCKS
        if block.page == page and block.reason is None
        for line in command_lines(block)
    ]
    scripts = sysconfig.get_path("scripts")
    nowhere = "http://127.0.0.1:9"
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
        **dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), nowhere),
    }
    for line in lines:
        done = subprocess.run(
            shlex.split(line),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_the_command_in_a_page_knows_its_options():
    for block in BLOCKS:
        for line in command_lines(block):
            words = shlex.split(line)[1:]
            verb: click.Command = command
            while words and words[0] in (within := commands(verb)):
                verb = within[words.pop(0)]
            known = options_of(verb)
            if verb is command:
                assert set(words) <= known, line
            used = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert used <= known, line


# Names.


def options_of(verb):
    options = {"--help", "-h"}
    for parameter in verb.params:
        if isinstance(parameter, click.Option):
            options.update(parameter.opts, parameter.secondary_opts)
    if verb is not command:
        options.update(*map(options_of, commands(verb).values()))
    return options


def commands(verb: click.Command) -> dict[str, click.Command]:
    """The commands of a group; none of what is a single one."""
    if not isinstance(verb, click.Group):
        return {}
    context = click.Context(verb)
    return {
        name: verb.get_command(context, name) for name in verb.list_commands(context)
    }


def section(text, title):
    """What stands between a title and the next of its rank."""
    _, found, rest = text.partition(f"## {title}\n")
    assert found, f"no section {title!r}"
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize("verb", sorted(commands(command)))
def test_a_command_and_its_options_are_documented(verb):
    page = REFERENCE["cli"]
    shared = section(page, "Naming a cohort")
    own = section(page, f"`intake-idc {verb}`")
    known = commands(command)[verb]
    inner = commands(known)
    takers = [known, *inner.values()]
    takes_filters = any(p.name == "filters" for one in takers for p in one.params)
    for name in inner:
        assert f"`intake-idc {verb} {name}`" in own
    for option in options_of(known) - {"--help", "-h"}:
        where = own + shared if takes_filters else own
        assert f"`{option}" in where, f"{verb} {option}"


def test_the_exit_codes_of_the_errors_are_documented():
    codes = {getattr(errors, name).exit_code for name in error_names()}
    listed = re.findall(r"^\| (\d+) \|", REFERENCE["cli"], re.MULTILINE)
    assert codes <= set(map(int, listed))


def error_names():
    return [name for name in errors.__all__ if name[0].isupper()]


@pytest.mark.parametrize("name", error_names())
def test_an_error_is_in_the_table_with_its_exit_code(name):
    rows = REFERENCE["errors"].splitlines()
    row = next((row for row in rows if row.startswith(f"| `{name}` |")), None)
    if name == "IDCError":
        assert f"`{name}`" in REFERENCE["errors"]
        return
    assert row is not None
    _, _, builtins, code, advice, _ = (cell.strip() for cell in row.split("|"))
    error = getattr(errors, name)
    assert int(code) == error.exit_code
    assert advice
    for builtin in re.findall(r"`(\w+)`", builtins):
        assert builtin in {base.__name__ for base in error.__mro__}


@pytest.mark.parametrize("name", intake_idc.__all__)
def test_a_public_name_is_in_the_reference(name):
    assert re.search(rf"intake_idc\.{name}\b", REFERENCE["api"])


def test_the_drivers_and_readers_are_in_the_reference():
    drivers = [
        point
        for point in entry_points(group="intake.drivers")
        if point.value.startswith("intake_idc")
    ]
    assert drivers
    for driver in drivers:
        row = f"| `{driver.name}` | `{driver.value.replace(':', '.')}` |"
        assert row in REFERENCE["catalog"]
    for name in readers.__all__:
        assert f"`{name}`" in REFERENCE["catalog"]


def test_the_entries_of_the_shipped_catalog_are_in_the_reference():
    catalog = yaml.safe_load(Path(intake_idc.catalog_path()).read_text("utf-8"))
    page = REFERENCE["catalog"]
    numbered = [name for name in catalog["sources"] if re.fullmatch(r"v\d+", name)]
    for name in set(catalog["sources"]) - set(numbered):
        row = next(r for r in page.splitlines() if r.startswith(f"| `{name}` |"))
        source = catalog["sources"][name]
        assert f"`{source['driver']}`" in row
        for parameter, described in source["parameters"].items():
            assert f"`{parameter}`" in row
            assert f"default {described['default']}" in row
    newest = max(int(name[1:]) for name in numbered)
    assert f"| `v1` to `v{newest}` |" in page


def test_every_module_has_its_floor_on_the_page_about_the_house():
    page = (DOCS / "understanding" / "architecture.md").read_text("utf-8")
    package = ROOT / "intake_idc"
    modules = {path.stem for path in package.glob("[!_]*.py")}
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    data = {"facts", "sample"}
    for name in modules | rooms - data:
        assert re.search(rf"^\| \d+ \| `{name}` \|", page, re.MULTILINE), name


# Links.


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(page):
    for link in LINK.findall(prose_of(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert ROOT in target.parents, link
        if anchor:
            assert anchor in anchors_of(target), link


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text("utf-8")
    listed = set(re.findall(r"^[\w/*-]+$", index, re.MULTILINE))
    for page in PAGES[1:]:
        entry = page.relative_to(DOCS).with_suffix("").as_posix()
        folder = f"{entry.rpartition('/')[0]}/*"
        assert {entry, folder} & listed or entry == "index", entry
