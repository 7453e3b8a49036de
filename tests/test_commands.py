"""Commands: assets made by programs in other languages, between assets made by functions."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import freshet as fr
from freshet.engine import secrets
from freshet.engine.events import Materialized, RunCancelled
from freshet.engine.executors.children import LAST_BYTES
from freshet.engine.executors.invoke import MAX_DETAIL_CHARS
from freshet.testing import simulate
from tests.processes import at_work, number_in, project_in, wait_until_gone
from tests.test_cli import Place

pytestmark = pytest.mark.anyio

POLYGLOT = '''
import freshet as fr

DAYS = fr.static(["mon", "tue"])
landed = fr.source("landing/orders", partitions=DAYS)


@fr.asset(partitions=DAYS, inputs={"landed": landed})
def orders(landed: str) -> str:
    """One order a line: customer, amount."""
    return landed.replace(";", ",")


sums = fr.command(
    "sums", ["awk", "-F", ",", "-f", "sums.awk", "{orders}"], deps=[orders], output=".csv",
    partitions=DAYS, files=["sums.awk"],
)


@fr.asset
def best(sums: dict[str, str]) -> dict[str, str]:
    return {day: max(text.splitlines()) for day, text in sums.items()}


report = fr.command("report", ["perl", "report.pl"], deps=[best, "sums"], output=".txt")
told = fr.command(
    "told", ["sh", "-c", """
        test ! -e "${FRESHET_OUTPUT:-nothing}"
        echo '{"data_version": "v'$(wc -c < "$FRESHET_INPUT_REPORT")'"}' > $FRESHET_REPORT
        echo '{"metadata": {"lines": 2, "by": "'$FRESHET_ASSET'"}}' > $FRESHET_REPORT
    """],
    deps=[report],
)


@fr.asset
def last(report: str, told: None) -> str:
    return report.upper()


project = fr.Project(
    [landed, orders, sums, best, report, told, last],
    sensors=[fr.files("landing/{partition}.csv", source=landed, settle=0)],
)
'''

AWK = """
{ sum[$1] += $2; print "read", $1 > "/dev/stderr" }
END { for (name in sum) print name "," sum[name] > ENVIRON["FRESHET_OUTPUT"] }
"""

PERL = r"""
use strict; use JSON::PP;
sub content { open(my $f, "<", shift) or die "no file: $!"; local $/; return <$f>; }
my $best = decode_json(content($ENV{FRESHET_INPUT_BEST}));
my $sums = decode_json(content($ENV{FRESHET_INPUT_SUMS}));
print "in run $ENV{FRESHET_RUN}\n";
open(my $report, ">&=", $ENV{FRESHET_REPORT_FD}) or die;
print $report qq({"metadata": {"days": ) . keys(%$best) . qq(}}\n);
open(my $out, ">", $ENV{FRESHET_OUTPUT}) or die;
for my $day (sort keys %$best) {
    my @lines = split /\n/, content($sums->{$day});
    print $out "$day: best $best->{$day} of " . scalar(@lines) . "\n";
}
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    (tmp_path / "project.py").write_text(POLYGLOT)
    (tmp_path / "sums.awk").write_text(AWK)
    (tmp_path / "report.pl").write_text(PERL)
    yield found
    found.kill()


def test_functions_and_programs_depend_on_each_other_in_both_directions(place: Place) -> None:
    """D23: Python, awk, Python, perl, sh, Python; by files, versions and metadata; each with what
    it said, and again when the program changes.
    """
    place.start()
    place.land("mon", "ann;3\nbob;4\nann;5\n")
    place.land("tue", "bob;1\n")
    place.wait_for("Materialized", "sums", 2)
    last = place.folder / "data" / "last.txt"
    wanted = "MON: BEST BOB,4 OF 2\nTUE: BEST BOB,1 OF 1\n"
    while not (last.exists() and last.read_text() == wanted):
        place.wait_for("Materialized", "last")
    found = json.loads(place.freshet("provenance", "told", "--json").stdout)
    assert (found["data_version"], found["metadata"]) == ("v42", {"lines": 2, "by": "told"})
    (report,) = found["inputs"]
    assert (report["asset"], report["metadata"]["days"]) == ("report", 2)
    said = place.freshet("logs", "sums@mon").stdout
    heard = [line.split("  ")[-1] for line in said.splitlines()]
    assert heard == ["read ann", "read bob", "read ann"]
    assert "in run " in place.freshet("logs", "report").stdout
    place.stop()
    (place.folder / "sums.awk").write_text(AWK.replace("+= $2", "+= 1"))
    place.start()
    wanted = "MON: BEST BOB,1 OF 2\nTUE: BEST BOB,1 OF 1\n"
    place.wait_for("Materialized", "sums", 4)
    while last.read_text() != wanted:
        place.wait_for("Materialized", "last", 2)
    place.stop()
    assert not list((place.folder / ".freshet" / "scratch").glob("*"))


ONE = """
raw = fr.source("raw")
a = fr.command("a", WORDS, EXTRA)
project = fr.Project([raw, a], store=STORE)
"""


def one(words: list[str], extra: str = 'deps=["raw"]', store: str = "fr.MemoryStore()") -> str:
    text = ONE.replace("WORDS", repr(words)).replace("EXTRA", extra)
    return text.replace("STORE", store)


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (
            ["sh", "-c", "echo no >&2; echo rows >&2; exit 3"],
            "exit",
            "'sh' ended with exit code 3: rows",
        ),
        (["sh", "-c", "kill -SEGV $$"], "exit", "'sh' was killed by SIGSEGV"),
        (["no-such-program", "x"], "error", "there is no program 'no-such-program'"),
        (["./project"], "error", "there is no program './project'"),
        (["/"], "error", "'/' cannot be started: "),
        (
            ["sh", "-c", "echo [1] > $FRESHET_REPORT"],
            "value",
            "line 1 of what 'sh' reported is",
        ),
        (
            ["sh", "-c", 'echo \'{"metadata": {"a": [1]}}\' > $FRESHET_REPORT'],
            "value",
            "`$.metadata[...]`",
        ),
        (["sh", "-c", 'echo \'{"version": "1"}\' > $FRESHET_REPORT'], "value", "field `version`"),
        (["sh", "-c", "yes '{}' > $FRESHET_REPORT"], "value", "reported more than 1048576 bytes"),
        (
            ["sh", "-c", 'echo x > {output}; echo \'{"data_version": "1"}\' > $FRESHET_REPORT'],
            "value",
            "do one of the two",
        ),
        (["mkdir", "{output}"], "value", "'mkdir' wrote a folder, not a file"),
        (["mkfifo", "{output}"], "value", "'mkfifo' wrote something else, not a file"),
        (["ln", "-s", "/etc/hosts", "{output}"], "value", "'ln' wrote a symbolic link, not a file"),
        (["ln", "-s", "/", "{output}"], "value", "'ln' wrote a symbolic link, not a file"),
        (["ln", "-s", "gone", "{output}"], "value", "'ln' wrote a symbolic link, not a file"),
    ],
)
async def test_what_goes_wrong_is_said(
    words: list[str], kind: str, said: str, tmp_path: Path
) -> None:
    async with at_work(tmp_path, one(words, 'deps=["raw"], output=".txt"')) as works:
        await works.change("1")
        await works.ended(1)
        (failed,) = await works.failures()
        assert failed.kind == kind
        assert said in failed.error
        if "rows" in said:
            assert failed.detail == "no\nrows"


CANARY = "c4nary of sixteen characters and more"


@pytest.mark.parametrize("before", [0, MAX_DETAIL_CHARS - 60, LAST_BYTES - 60, LAST_BYTES + 9])
@pytest.mark.parametrize("end", ["", "\n"])
async def test_no_secret_is_recorded_of_what_a_command_said(
    before: int, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever what it said is cut, be it within a secret."""
    monkeypatch.setattr(secrets, "_known", {})
    secrets.conceal(CANARY)
    (tmp_path / "said").write_text(f"{CANARY}{end}{'x' * before}{CANARY}\n")
    words = ["sh", "-c", f"cat {tmp_path}/said >&2; exit 3"]
    async with at_work(tmp_path, one(words)) as works:
        await works.change("1")
        await works.ended(1)
        (failed,) = await works.failures()
    assert failed.detail.endswith("***")
    said = failed.error + failed.detail
    assert [piece for piece in CANARY.split() if piece in said] == []


@pytest.mark.parametrize("end", ["", "\n"])
async def test_half_a_secret_is_not_recorded_if_all_a_command_said_was_secret(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "".join(chr(ord("a") + number % 26) for number in range(LAST_BYTES // 8 - 100))
    monkeypatch.setattr(secrets, "_known", {})
    secrets.conceal(secret)
    (tmp_path / "said").write_text(f"{secret}{end}" * 20 + "\n")
    words = ["sh", "-c", f"cat {tmp_path}/said >&2; exit 3"]
    async with at_work(tmp_path, one(words)) as works:
        await works.change("1")
        await works.ended(1)
        (failed,) = await works.failures()
    assert set(failed.detail) == {"*", *end}


async def test_what_it_is_given_and_what_it_makes(tmp_path: Path) -> None:
    """The data version of what has no file; nothing written is no value; placeholders, and braces
    that are none; values of a store without files; bytes as they were written.
    """
    text = """
raw = fr.source("raw")

@fr.asset
def table(raw: str) -> dict[str, int]:
    return {"n": len(raw)}

told = fr.command("told", ["sh", "-c", "printf '%s {x}' {raw}-{asset}-{attempt} > {output}"],
    deps=[raw], output=".bin")
copied = fr.command("copied", ["cp", "{given}", "{output}"], inputs={"given": table},
    output=".json")
silent = fr.command("silent", ["true"], deps=[raw])

@fr.asset
def end(told: bytes, copied: dict[str, int], silent: None) -> list[object]:
    return [told.decode(), copied, silent]

project = fr.Project([raw, table, told, copied, silent, end], store=fr.MemoryStore())
"""
    async with at_work(tmp_path, text) as works:
        await works.change("abc")
        await works.loop.quiet()
        assert await works.failures() == []
        store = works.loop._definitions.store
        made = {e.asset: e for e in await works.events() if isinstance(e, Materialized)}
        end = fr.AssetPartition("end")
        assert store.load(end, made["end"].data_version, None) == ["abc-told-1 {x}", {"n": 3}, None]
        assert made["silent"].metadata == {}
    assert not list((tmp_path / "state" / "scratch").glob("*"))


HANGS = "sleep 1000 & echo $! > {0}/child.new; mv {0}/child.new {0}/child; echo $$ > {0}/self; wait"


@pytest.mark.parametrize("how", ["timeout", "cancel", "exit"])
async def test_all_that_a_command_started_ends_with_it(how: str, tmp_path: Path) -> None:
    """When it takes too long, when somebody cancels it, and when it ends by itself."""
    hangs = HANGS.format(tmp_path)
    words = ["sh", "-c", hangs.replace("wait", "exit 0") if how == "exit" else hangs]
    extra = 'deps=["raw"]' + (', timeout="3s"' if how == "timeout" else "")
    async with at_work(tmp_path, one(words, extra)) as works:
        await works.change("1")
        child = await anyio.to_thread.run_sync(number_in, tmp_path / "child")
        itself = await anyio.to_thread.run_sync(number_in, tmp_path / "self")
        if how == "cancel":
            (run,) = works.running.view.runs.live
            await works.running.stream.append([RunCancelled(run)])
        await works.until(lambda: not works.loop.runner.live)
        wait_until_gone(child, itself)
        assert [one.kind for one in await works.failures()] == ["timeout"] * (how == "timeout")
        assert works.loop.runner.left_behind == 0
    assert not list((tmp_path / "state" / "children").glob("*"))


def test_what_a_killed_daemon_left_is_ended_when_the_next_one_starts(tmp_path: Path) -> None:
    """And nothing else is: not what somebody else started under the same number."""
    place = Place(tmp_path)
    words = ["sh", "-c", HANGS.format(tmp_path)]
    text = one(words, store='fr.LocalStore("data")')
    (tmp_path / "project.py").write_text(f"import freshet as fr\n{text}")
    try:
        place.start()
        place.wait_for("GraphDeployed", "")
        place.freshet("emit", "raw", "--version", "1")
        pids = [number_in(tmp_path / name) for name in ("child", "self")]
        place.kill()
        (tmp_path / "project.py").write_text(
            "import freshet as fr\n" + one(["true"], store='fr.LocalStore("data")')
        )
        innocent = tmp_path / ".freshet" / "children" / ("0" * 32)
        innocent.write_text(f"{os.getpid()} 1")
        place.start()
        wait_until_gone(*pids)
        place.wait_for("Materialized", "a")
        assert not list((tmp_path / ".freshet" / "children").iterdir())
        _, err = place.stop()
        assert '"processes": 2' in err
    finally:
        place.kill()


def test_a_command_runs_in_simulations_and_plain_tests(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["sh", "-c", "echo hello; tr a-z A-Z < $FRESHET_INPUT_TEXT > $FRESHET_OUTPUT"]
    text = f"""
raw = fr.source("raw")

@fr.asset
def text(raw: str) -> str:
    return raw

a = fr.command("a", {words!r}, deps=[text], output=".txt")
project = fr.Project([raw, text, a])
"""
    project = project_in(tmp_path, text)
    with simulate(project) as simulation:
        simulation.change("raw", "abc")
        simulation.settle()
        assert simulation.value("a") == "ABC"
    (tmp_path / "given.txt").write_text("xyz")
    context = fr.Context("a", "", 1, 1, 0)
    output = project.assets["a"](context=context, input_text=tmp_path / "given.txt")
    assert output.value.read_text() == "XYZ"
    assert capfd.readouterr().out == "hello\n" * 2


def test_the_code_version_is_that_of_the_words_and_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = Path("clean.sh")

    def version(*words: str, output: str = "") -> str:
        return fr.command("a", words, files=[script], output=output).spec.code_version

    script.write_text("one")
    first = version("sh", "clean.sh")
    assert first == version("sh", "clean.sh")
    others = {version("sh", "clean.sh", "-v"), version("shclean.sh")}
    others.add(version("sh", "clean.sh", output=".csv"))
    script.write_text("two")
    others.add(version("sh", "clean.sh"))
    assert first not in others
    assert len(others) == 4
    named = fr.command("a", ["sh"], code_version="7", kinds=["shell"], retries=2)
    assert (named.spec.code_version, named.spec.kinds, named.spec.retries) == ("7", ("shell",), 2)
    assert named.spec.description == "sh"


@pytest.mark.parametrize(
    ("words", "extra", "said"),
    [
        ("ls -l", {}, "['sh', '-c', 'ls -l']"),
        ([], {}, "is []"),
        (["x"], {"output": "csv"}, "output='csv'"),
        (["x"], {"files": ["gone.sh"]}, "the file 'gone.sh'"),
        (["x"], {"deps": ["a/x", "b/x"]}, "two inputs 'x'"),
        (["x"], {"deps": ["a/run"]}, "an input 'run'"),
        (["x"], {"executor": "process"}, "a command is a process of its own"),
        (["x"], {"retries": -1}, "retries=-1"),
    ],
)
def test_a_command_that_cannot_be_is_refused(
    words: list[str], extra: dict[str, object], said: str
) -> None:
    with pytest.raises(fr.DefinitionError) as caught:
        fr.command("made", words, **extra)  # type: ignore[arg-type]  # that is what is refused
    assert said in str(caught.value)
    assert "'made'" in str(caught.value)
    assert "test_commands.py" in str(caught.value)
