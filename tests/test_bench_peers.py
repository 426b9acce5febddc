"""The comparison with peers: alternation, settings, failures, the records' file, verdicts, README's table. On providers made up here."""

import contextlib
import math
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "bench" / "peers"
TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(PEERS), str(TESTS)]

import compare  # noqa: E402
import objectives  # noqa: E402
import picture  # noqa: E402
import readme_tables  # noqa: E402
import records  # noqa: E402
import verdict  # noqa: E402
from jobs import JOBS, OURS, Job  # noqa: E402
from runner import Runner  # noqa: E402

from fastmnist.recipes import RECIPES  # noqa: E402

for _ in range(2):
    sys.path.pop(0)


@pytest.fixture(autouse=True)
def runners_importable(monkeypatch):
    """`compare` imports a runner's module by name."""
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.syspath_prepend(str(PEERS))


def a_job(peer: str, loss_rule: str = "close", **parameters) -> Job:
    runners = {OURS: "peer_runners:Ours", "peer": f"peer_runners:{peer}"}
    parameters = {"loss": 0.5, "version": "peer 1", **parameters}
    return Job("a-job", "a job", runners, parameters, columns={"seconds": "it"}, loss_rule=loss_rule)


def sampled(job: Job, rounds: int = 6, known=()) -> list[records.Record]:
    return compare.Pair(job, "peer", sys.executable, [str(TESTS)]).sample(rounds, known)


def without_trials(found: list[records.Record]) -> list[records.Record]:
    return [record for record in found if record.round != records.TRIAL]


# --- the comparison ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    sys.path[:0] = [str(PEERS), str(TESTS)]
    try:
        return sampled(a_job("Peer"))
    finally:
        del sys.path[:2]


def test_sides_alternate_and_seeds_are_the_rounds(found):
    rounds = without_trials(found)
    assert [(r.provider, r.round) for r in rounds] == [(p, str(n)) for n in range(6) for p in ("peer", OURS)]
    assert [r.note for r in rounds if r.provider == OURS] == [f"seed {n}" for n in range(6)]


def test_the_fastest_setting_is_kept_and_its_trials_are_recorded(found):
    trials = [record for record in found if record.round == records.TRIAL]
    assert [(r.settings, r.seconds) for r in trials] == [("threads=1", 4.0), ("threads=2", 2.0)]
    assert {r.settings for r in without_trials(found) if r.provider == "peer"} == {"threads=2"}


def test_ours_sees_the_peer_s_first_sample(found):
    assert {r.loss for r in without_trials(found)} == {0.5}


def test_recorded_trials_are_reused_for_the_same_version_only(found):
    again = sampled(a_job("Peer"), 1, found)
    assert not [r for r in again if r.round == records.TRIAL]
    assert again[0].settings == "threads=2"
    lying = [replace(r, seconds=0.1) if r.settings == "threads=1" else r for r in found]
    assert sampled(a_job("Peer"), 1, lying)[0].settings == "threads=1"
    updated = sampled(a_job("Peer", version="peer 2"), 1, lying)
    assert [r.round for r in updated[:2]] == [records.TRIAL] * 2
    assert updated[2].settings == "threads=2"


def test_the_outcome(found):
    job = a_job("Peer")
    outcome = verdict.judge(job, without_trials(found))
    comparison = outcome.comparisons["seconds"]
    assert outcome.problem == ""
    assert (comparison.verdict, comparison.rounds) == ("FASTER", 6)
    assert 1.95 < comparison.ratio < 2.0
    assert "FASTER, 1.9" in compare.describe(job, "peer", outcome)


def test_a_missing_library_is_recorded_with_the_reason():
    (record,) = sampled(a_job("Missing"))
    assert record.round == records.FAILED
    assert "not available" in record.note and "no_such_library" in record.note
    outcome = verdict.judge(a_job("Missing"), [record])
    assert "not available" in "".join(readme_tables.lines(a_job("Missing"), outcome))


def test_a_failure_in_the_midst_leaves_its_last_words_and_no_number():
    job = a_job("Failing")
    found = sampled(job)
    assert found[-1].round == records.FAILED and "out of luck" in found[-1].note
    outcome = verdict.judge(job, found)
    assert not outcome.comparisons and "out of luck" in outcome.problem


def test_who_is_not_asked_stands_still():
    job = a_job("Busy")
    sys.path[:0] = [str(PEERS), str(TESTS)]
    worker = compare.Worker(sys.executable, job, "peer", job.parameters, {"threads": 1}, [str(TESTS)])
    try:
        before = worker.ask("sample", seed=0)["seconds"]
        time.sleep(0.5)
        after = worker.ask("sample", seed=0)["seconds"]
    finally:
        worker.close()
        del sys.path[:2]
    assert after - before < 100  # some hundred ticks would have been made in this time


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_no_stopped_worker_outlives_a_killed_comparison():
    code = f"""
        import sys
        sys.path[:0] = {[str(PEERS), str(TESTS)]}
        import compare
        from jobs import Job
        job = Job("j", "j", {{"peer": "peer_runners:Busy"}}, {{"version": "1"}})
        worker = compare.Worker(sys.executable, job, "peer", job.parameters, {{"threads": 1}}, [{str(TESTS)!r}])
        print(worker.process.pid, flush=True)
        input()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    worker = int(process.stdout.readline())
    assert is_alive(worker)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 30
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(worker)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- the jobs ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda job: job.name)
def test_every_runner_of_a_job_exists_and_its_module_says_what_is_timed(job):
    assert OURS in job.runners and job.peers
    for provider, name in job.runners.items():
        kind = compare.runner_class(job, provider)
        assert issubclass(kind, Runner) and kind.__doc__, name
        assert "Timed" in sys.modules[kind.__module__].__doc__
        for settings in kind.settings(job.parameters):
            assert all(isinstance(v, str) for v in kind.environment(settings).values())


def test_a_peer_s_parameters_are_given_to_both_sides_and_named_in_the_table():
    job = replace(a_job("Peer"), changes={"peer": {"loss": 0.25}}, columns={"seconds": "loss {loss}"})
    found = without_trials(sampled(job, 1))
    assert [r.loss for r in found] == [0.25, 0.25]
    assert job.label("seconds", "peer") == "loss 0.25" and job.label("seconds", "another") == "loss 0.5"


def test_runners_import_no_library_before_they_are_made():
    code = "import sys, mlp, lbfgs, gradient_step, prediction, startup, forest, cnn, cnn_prediction, cnn_memory; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=PEERS, capture_output=True, text=True, check=True)
    assert not {"torch", "jax", "tensorflow", "keras", "sklearn", "sklearnex", "fastmnist"} & set(run.stdout.split())


def test_objectives_are_scikit_learn_s():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (40, 5), dtype=np.uint8), np.arange(40) % 3
    W, b, C = rng.standard_normal((5, 3)), rng.standard_normal(3), 0.7
    Z = X / 255 @ W + b
    penalty = (W**2).sum() / (2 * C * 40)
    probabilities = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(40), y]).mean() + penalty
    assert objectives.multinomial(W, b, X, y, C) == pytest.approx(expected, rel=1e-12)
    T, sigmoid = np.eye(3)[y], 1 / (1 + np.exp(-Z))
    expected = -(T * np.log(sigmoid) + (1 - T) * np.log(1 - sigmoid)).sum(1).mean() + penalty
    assert objectives.one_vs_rest(W, b, X, y, C) == pytest.approx(expected, rel=1e-12)


# --- verdicts ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([2.0, 2.1, 1.9, 2.2, 2.0, 2.05], "FASTER"),
        ([0.5, 0.45, 0.52, 0.5, 0.48, 0.51], "SLOWER"),
        ([1.0, 1.01, 0.99, 1.02, 0.98, 1.0], "SAME"),
        ([1.0] * 6, "SAME"),
        ([0.7, 1.5, 0.8, 1.4, 0.9, 1.2], "UNCLEAR"),
        ([3.0] * 5, "UNCLEAR"),  # five rounds can't be significant
        ([3.0], "UNCLEAR"),
    ],
)
def test_verdicts(ratios, expected):
    ours = np.linspace(1.0, 1.5, len(ratios))  # a drift that both sides share
    assert verdict.compare(ours, ours * ratios).verdict == expected


def test_ratios_are_paired_by_round():
    comparison = verdict.compare([1.0, 2.0, 4.0], [3.0, 6.0, 12.0])
    assert (comparison.ratio, comparison.low, comparison.high) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("rule", "losses", "accuracies", "agrees"),
    [
        ("close", (0.100, 0.1029), (0.97, 0.9729), True),
        ("close", (0.100, 0.1035), (0.97, 0.97), False),
        ("close", (0.1, 0.1), (0.97, 0.974), False),
        ("close", (math.nan, 0.1), (0.97, 0.97), False),
        ("close", (0.1, 0.1), (0.97, math.nan), False),
        ("close", None, (0.97, 0.97), False),
        ("at most", (0.10, 0.11), None, True),
        ("at most", (0.100009, 0.1), None, True),
        ("at most", (0.10002, 0.1), None, False),
        ("none", None, None, True),
        ("none", None, (0.9, 0.8), False),
    ],
)
def test_who_did_another_job_gets_no_number(rule, losses, accuracies, agrees):
    assert (verdict.disagreement(rule, losses, accuracies) == "") == agrees


def test_a_disagreement_reaches_the_outcome(found):
    worse = [replace(r, loss=0.6) if r.provider == "peer" else r for r in without_trials(found)]
    outcome = verdict.judge(a_job("Peer"), worse)
    assert "differ by more than 3 %" in outcome.problem and not outcome.comparisons


# --- records ----------------------------------------------------------------------------------------------------------------------------


def test_records_survive_the_file_and_are_appended(found, tmp_path):
    file = tmp_path / "deep" / "peers.csv"
    records.append(found[:3], file)
    records.append(found[3:], file)
    assert records.load(file) == found
    assert file.read_text().splitlines()[0] == ",".join(records.COLUMNS)
    assert file.read_text().count("provider") == 1


def test_a_file_with_other_columns_is_left_alone(found, tmp_path):
    file = tmp_path / "peers.csv"
    file.write_text("date,job\n2026-11-21,x\n")
    with pytest.raises(ValueError, match="must have the columns"):
        records.append(found, file)
    assert file.read_text() == "date,job\n2026-11-21,x\n"


def test_the_newest_run_on_a_machine_counts(found):
    older = without_trials(found)
    newer = [replace(r, run="2999-01-01T00:00:00+00:00") for r in older[:4]]
    elsewhere = [replace(r, machine="another") for r in older]
    machine = older[0].machine
    assert records.newest_runs([*older, *newer, *elsewhere], machine) == {("a-job", "peer"): newer}


def test_the_repository_s_records_can_be_read():
    for record in records.load():
        assert record.job in JOBS and record.provider in JOBS[record.job].runners, record


# --- README -----------------------------------------------------------------------------------------------------------------------------


def test_readme_is_what_the_records_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = records.load()
    assert readme_tables.updated(text, known) == text, "run `make tables`"
    for path, svg in readme_tables.pictures(known).items():
        assert (ROOT / path).read_text(encoding="utf-8") == svg, "run `make tables`"
        assert path in text


def _bars(svg: str) -> list[tuple[float, float, str]]:
    """Left end, right end and colour of each bar."""
    root = ElementTree.fromstring(svg)
    bars = root.iter("{http://www.w3.org/2000/svg}rect")
    return [(float(b.get("x")), float(b.get("x")) + float(b.get("width")), b.get("fill")) for b in bars]


@pytest.mark.parametrize("theme", picture.THEMES)
def test_bars_begin_at_the_same_speed_and_lost_ones_point_to_the_left(found, theme):
    job = a_job("Peer")
    lost = [replace(r, seconds=r.seconds / 8) if r.provider == "peer" else r for r in without_trials(found)]
    outcomes = [(job, verdict.judge(job, rows)) for rows in (without_trials(found), lost)]
    svg = picture.picture(outcomes, theme)
    (slow_left, slow_right, slow), (fast_left, fast_right, fast) = _bars(svg)
    colours = picture.THEMES[theme]
    assert (fast, slow) == (colours[3], colours[4])
    assert slow_right == pytest.approx(fast_left, abs=0.2), "the line of the same speed"
    # Twice as fast and a quarter as fast: one power of two and two.
    assert (slow_right - slow_left) / (fast_right - fast_left) == pytest.approx(2, rel=0.1)
    assert svg.count("1 = same speed") == 1 and ", slower<" in svg
    assert "<rect" not in picture.picture([], theme), "nothing measured, nothing drawn"


def test_table_has_losses_and_slower_lines(found, monkeypatch):
    monkeypatch.setattr(readme_tables, "JOBS", {"a-job": a_job("Peer")})
    slower = [replace(r, seconds=r.seconds / 8) if r.provider == "peer" else r for r in found]
    text = readme_tables.table(slower)
    (line,) = [line for line in text.splitlines() if line.startswith("| a job: it")]
    assert "SLOWER" in line and "0.5 / 0.5" in line and "90.00% / 90.00%" in line and "peer (peer 1; threads=2)" in line
    assert line.count("|") == readme_tables.HEADER[0].count("|")
    assert "1 SLOWER" in text and "**Slower than a peer** (1): a job, it: peer (0.25 x)." in text


def test_only_what_is_between_the_markers_changes(found):
    text = f"before\n{readme_tables.BEGIN}\nold\n{readme_tables.END}\nafter\n"
    new = readme_tables.updated(text, [])
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert readme_tables.updated(new, []) == new


@pytest.mark.parametrize("text", ["", readme_tables.BEGIN, readme_tables.END + readme_tables.BEGIN])
def test_missing_markers_are_an_error(text):
    with pytest.raises(ValueError, match="once each"):
        readme_tables.updated(text, [])


@pytest.mark.parametrize(
    ("value", "text"), [(12.34, "12.3 s"), (1.0, "1.00 s"), (0.0123, "12.3 ms"), (123e-6, "123 µs"), (1e-7, "0.10 µs")]
)
def test_times_have_three_digits_and_a_unit(value, text):
    assert readme_tables.seconds(value) == text


def test_the_command_line_lists_jobs(capsys):
    assert compare.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(job in listed for job in JOBS)


# --- one command for all of it ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_jobs(monkeypatch, tmp_path):
    """Runs `compare.main` on two jobs; returns its code and the records' file."""
    jobs = {name: replace(a_job("Peer"), name=name, rounds=2) for name in ("one", "two")}
    monkeypatch.setattr(compare, "JOBS", jobs)
    monkeypatch.setattr(compare, "ROOT", TESTS)  # on the workers' path
    monkeypatch.setattr(compare, "commit", lambda: "abc1234")
    file = tmp_path / "peers.csv"
    return lambda *arguments: compare.main([*arguments, "--results", str(file)]), file


def test_an_interrupted_run_goes_on_where_it_was(two_jobs, monkeypatch, capsys):
    run, file = two_jobs
    assert run("--jobs", "one") == 0
    assert "[1 of 1:" in capsys.readouterr().out
    before = records.load(file)
    assert run("--resume") == 0
    out = capsys.readouterr().out
    assert "1 pairs, 1 have records of commit abc1234" in out and "one against" not in out
    assert {r.job for r in records.load(file)[len(before) :]} == {"two"}
    assert run("--resume") == 0 and "0 pairs, 2 have records" in capsys.readouterr().out
    monkeypatch.setattr(compare, "commit", lambda: "def5678")
    monkeypatch.setattr(compare.Pair, "sample", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("--resume") == compare.INTERRUPTED
    assert "--resume" in capsys.readouterr().err


def test_a_budget_takes_fewer_rounds_but_enough_for_a_verdict():
    found = compare.Pair(a_job("Peer"), "peer", sys.executable, [str(TESTS)]).sample(9, seconds=0.0)
    assert len(without_trials(found)) == 2 * compare.LEAST_ROUNDS


def test_what_a_budget_has_no_time_for_is_left(two_jobs, capsys):
    run, file = two_jobs
    assert run("--budget", "0.0001") == 1
    captured = capsys.readouterr()
    assert {r.job for r in records.load(file)} == {"one"} and "1 pairs are left" in captured.err
    with pytest.raises(SystemExit):
        run("--budget", "-1")


def test_estimates_follow_the_records(found):
    job = a_job("Peer")
    few, many = (compare.estimate(job, "peer", rounds, found) for rounds in (6, 12))
    assert many - few == pytest.approx(6 * 2 * np.mean([r.seconds for r in without_trials(found)]), rel=0.01)
    assert compare.estimate(job, "peer", 6, []) > few, "settings have to be tried"


@pytest.fixture
def sources(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS))
    import sources

    return sources


def test_the_sources_take_turns_with_us(sources, monkeypatch, tmp_path):
    from fastmnist.recipes.peer_times import COLUMNS, peer_times

    asked, closed = [], []
    seconds = {"source": iter([3.0, 1.0, 2.0]), OURS: iter([1.0, 0.5, 0.5])}

    class Worker:
        version = "0.1 abc"

        def __init__(self, python, job, side, parameters, settings):
            assert parameters == {"recipe": "fcnn", "system": ""}
            self.side = side

        def ask(self, method, **arguments):
            asked.append((self.side, arguments))
            about = {"software": "Keras 3", "unit": "epoch", "accuracy": None, "settings": "batch 64"}
            return {"seconds": next(seconds[self.side]), **(about if self.side == "source" else {})}

        def close(self):
            closed.append(self.side)

    monkeypatch.setattr(sources, "Worker", Worker)
    file = tmp_path / "times.csv"
    file.write_text(",".join(COLUMNS) + "\n")
    assert sources.main(["fcnn", "--rounds", "3", "--records", str(file)]) == 0
    (time,) = peer_times(file).values()
    assert (time.seconds, time.samples, time.ratio.middle, time.ratio.our_seconds) == (2.0, 3, 3.0, 0.5)
    assert [side for side, _ in asked] == ["source", OURS] * 3
    assert asked[1][1] == {"seed": 0, "unit": "epoch"}
    assert sorted(closed) == [OURS, "source"]
    with pytest.raises(SystemExit):
        sources.main(["no-such-recipe"])


@pytest.mark.parametrize(
    "recipe, system, unit", [("fcnn", "", "epoch"), ("ova-logistic", "digit 0 alone", "iteration")]
)
def test_our_side_fits_the_recipe_s_estimator(sources, monkeypatch, recipe, system, unit):
    from fastmnist.recipes.splits import split_for

    monkeypatch.setattr(sources, "split_for", lambda name, seed: split_for(name, seed).first(300, 100))
    ours, fits = sources.Ours({"recipe": recipe, "system": system}, {}), []
    monkeypatch.setattr(ours, "fit", lambda seed, max_iter: fits.append(max_iter) or 0.1 * max_iter)
    assert ours.sample(0, unit)["seconds"] == pytest.approx(0.1)
    assert fits == [1, ours.MORE[unit] + 1]
    assert {key[0] for key in sources.JOBS} <= set(RECIPES)


# --- this tree beside an older one --------------------------------------------------------------------------------------------------------


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import check

    return check


def test_an_older_tree_runs_beside_this_one_and_a_slower_one_ends_with_1(check, monkeypatch, tmp_path, capsys):
    job = Job("a-job", "a job", {OURS: "peer_runners:FromTree"}, {})
    monkeypatch.setattr(check, "JOBS", {"a-job": job})
    for old, new, verdict_, code in ((1.0, 2.0, "SLOWER", 1), (2.0, 1.0, "FASTER", 0), (1.0, 1.0, "SAME", 0)):
        trees = (
            tmp_path / verdict_
        )  # of their own: Python takes a file of the same second and length for the one it has compiled
        for name, seconds in (("old", old), ("new", new)):
            (trees / name).mkdir(parents=True)
            shutil.copy(TESTS / "peer_runners.py", trees / name)
            (trees / name / "seconds_of_tree.py").write_text(f"SECONDS = {seconds}")
        monkeypatch.setattr(check, "ROOT", trees / "new")
        monkeypatch.setattr(check, "checked_out", lambda revision, trees=trees: contextlib.nullcontext(trees / "old"))
        assert check.main(["--base", "some", "--jobs", "a-job"]) == code
        assert f"a-job: {verdict_}, {old / new:.2f} x as fast as some" in capsys.readouterr().out


def test_a_tree_can_be_checked_out_and_an_unknown_one_is_refused(check):
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a checkout of git")
    with check.checked_out("HEAD") as folder:
        assert (folder / "fastmnist" / "__init__.py").exists()
    assert not folder.exists()
    with pytest.raises(ValueError, match="must be a commit"), check.checked_out("no-such-revision"):
        pass
