"""What is said while kernels are compiled."""

from fastmnist.backends.compile_notice import SILENCE, CompileNotice


def test_it_is_said_once_and_again_after_a_while(capsys):
    now = 100.0
    notice = CompileNotice(lambda: now)
    for name in ("walk", "linear", "adam"):
        notice(name)
    first = capsys.readouterr().err
    assert first.count("\n") == 1 and "fastmnist warmup" in first
    now += 2 * SILENCE
    notice("linear_dw")
    notice("linear_db")
    assert capsys.readouterr().err == "fastmnist: compiling kernel 4, linear_dw, after 10 s ...\n"
