"""What is said while kernels are compiled."""

import pytest

from fastmnist.backends.compile_notice import SILENCE, CompileNotice


class Compiler:
    """Prepares three kernels, of so many seconds each by its clock."""

    def __init__(self):
        self.now = 100.0
        self.notice = CompileNotice(lambda: self.now)

    def prepare(self, seconds, compiles):
        for number, name in enumerate(("walk", "linear", "adam"), start=1):
            self.notice.comes_to(name, number, 3)
            if compiles:
                self.notice.compiles(name)
            self.now += seconds


@pytest.fixture
def compiler(capsys):
    compiler = Compiler()
    compiler.prepare(SILENCE / 4, compiles=True)
    first = capsys.readouterr().err
    assert first.count("\n") == 1 and "fastmnist warmup" in first
    return compiler


def test_where_it_takes_long_kernels_are_counted(compiler, capsys):
    compiler.prepare(SILENCE + 1, compiles=True)
    second, third = capsys.readouterr().err.splitlines()
    assert second == f"fastmnist: kernel 2 of 3, linear, after {SILENCE + 1:.0f} s ..."
    assert third == f"fastmnist: kernel 3 of 3, adam, after {2 * SILENCE + 2:.0f} s ..."


def test_nothing_is_said_of_kernels_that_are_kept(compiler, capsys):
    compiler.prepare(2 * SILENCE, compiles=False)
    assert capsys.readouterr().err == ""
