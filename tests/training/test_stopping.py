import os
import signal
import subprocess
import sys
import threading

import pytest

from semivox.training.stopping import interrupts_held_back, sigterm_as_interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_what_must_not_be_cut(number):
    done = []

    def work():
        with sigterm_as_interrupt():
            with interrupts_held_back():
                os.kill(os.getpid(), number)
                done.append("after the signal")
            done.append("too late")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["after the signal"]


def test_a_process_that_begins_meanwhile_hears_signals_itself():
    code = "import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    with interrupts_held_back():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_handlers_are_as_before_and_another_thread_has_none():
    before = signal.getsignal(signal.SIGINT)

    def block():
        with interrupts_held_back():
            found.append(signal.getsignal(signal.SIGINT))

    found = []
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert found == [before]
    block()
    assert found[1] is not before
    assert signal.getsignal(signal.SIGINT) == before
