"""What becomes of a service that answers wrongly, late or not at all, without one."""

import time
from pathlib import Path

import pytest
from served import facts, query

from aaexport.errors import ProtocolError, ServiceError, UnprovedError
from aaexport.folder import ModelFolder
from aaexport.pipeline.serve.incoming import Incoming
from aaexport.pipeline.serve.live import Live
from aaexport.pipeline.serve.options import ServeOptions
from aaexport.pipeline.serve.serve import Serving
from aaexport.pipeline.serve.stopping import Interrupted, Stopping
from aaexport.pipeline.serve.watchdog import RELOADS, SHARE
from aaexport.serving.address import RefusedError, parse_urls
from aaexport.serving.repository import RepositorySettings
from aaexport.serving.served import Served
from aaexport.serving.versions import Version, record_path, served_folder

WRONG = UnprovedError("digits must answer its golden vectors, got logits off by 1.0e+00")
(ADDRESS,) = parse_urls("http://127.0.0.1:8000")
LATE = ServiceError("url must be answered within 30 s", retryable=True)


class FakeProcess:
    def __init__(self):
        self.is_alive = True

    def alive(self):
        return self.is_alive

    def ended(self):
        return "signal SIGSEGV"

    def complaints(self):
        return "a fault"


class FakeService:
    """Says of each proof, in order, what is wrong with it; then all is right for good.

    What is wrong with `digits_image` is said by `image`, and how many queries were answered by `progress`, by name.
    """

    def __init__(self, *faults, progress=(), image=(), image_progress=()):
        self.faults = {"digits": list(faults), "digits_image": list(image)}
        self.progresses = {"digits": list(progress), "digits_image": list(image_progress)}
        self.reloads = self.proofs = 0
        self.silent, self.wrong, self.hung = [], [], {}
        self.process, self.working = FakeProcess(), False

    def is_at_work(self, name):
        return self.working

    def glance(self, served, name):
        self.proofs += 1
        if self.faults[name] and (fault := self.faults[name].pop(0)) is not None:
            raise fault

    def reload(self, served, silent, wrong):
        self.reloads += 1
        self.silent.append(set(silent))
        self.wrong.append(set(wrong))
        self.glance(served, "digits")

    def dead_models(self):
        return frozenset()

    def end_hanging(self):
        hung, self.hung = self.hung, {}
        return hung

    def progress(self, name):
        return self.progresses[name].pop(0)


def serving(service, say=lambda line: None, stopping=None):
    running = Serving(service, ServeOptions(check_every=1e-9), say, stopping or Stopping())
    served = Served(facts(golden=(query(),)), 1, RepositorySettings())
    folder = ModelFolder(Path("nowhere"))
    version, incoming = Version(1, "ab", "2026-01-31T09:30:00Z"), Incoming(folder, "float32")
    running.live.append(Live(folder, folder.path, served, version, incoming, None))
    return running


def test_a_wrong_answer_has_the_model_loaded_anew_and_it_is_said():
    said = []
    service = FakeService(WRONG)
    serving(service, said.append).watchdog.ask_all()
    assert service.reloads == 1
    assert said[0].startswith("digits is loaded anew (1 of 3): digits must answer its golden vectors")
    assert said[1].startswith("digits answers right again after ")


@pytest.mark.parametrize("name", ["digits", "digits_image"])
def test_a_backend_that_ended_is_loaded_anew_also_where_another_instance_still_answers(name):
    service, said = FakeService(), []
    serving(service, said.append).watchdog.ask_all({name: "a process of its backend has ended"})
    assert service.reloads == 1
    assert said[0] == f"{name} is loaded anew (1 of 3): a process of its backend has ended"


def test_what_dies_while_another_asks_it_is_what_is_loaded_anew(monkeypatch):
    service, said = FakeService(image=(RefusedError(ADDRESS, 500, "could not be run", retryable=True),)), []
    monkeypatch.setattr(service, "dead_models", lambda: frozenset(["digits"]))
    serving(service, said.append).watchdog.ask_all()
    assert said[0] == "digits is loaded anew (1 of 3): a process of its backend has ended"
    assert service.wrong == [{"digits"}]


def test_a_dead_model_of_another_folder_is_not_this_ones():
    service = FakeService()
    serving(service).watchdog.ask_all({"digits2": "a process of its backend has ended"})
    assert service.reloads == 0


def test_a_process_that_hangs_is_found_between_two_looks_though_another_answers():
    service, said = FakeService(), []
    running = serving(service, said.append)
    running.watchdog.rest(60)
    running.watchdog.look()
    assert service.reloads == service.proofs == 0
    service.hung = {"digits": (why := "a process of its backend was at one query for more than 60 s")}
    running.watchdog.look()
    assert service.reloads == 1
    assert said[0] == f"digits is loaded anew (1 of 3): {why}"


@pytest.mark.parametrize(
    ("fault", "is_known"),
    [
        (WRONG, True),
        (ProtocolError("outputs must be there"), True),
        (RefusedError(ADDRESS, 500, "Stub process is not healthy", retryable=True), True),
        (RefusedError(ADDRESS, "UNAVAILABLE", "too little memory at present", retryable=True), False),
        (RefusedError(ADDRESS, 404, "no available versions", retryable=False), False),
    ],
    ids=["wrong", "empty", "broken", "memory", "away"],
)
def test_what_was_seen_counts_also_where_another_process_answers_when_it_is_asked_again(fault, is_known):
    service = FakeService(fault)
    serving(service).watchdog.ask_all()
    assert service.wrong == [{"digits"} if is_known else set()]


def test_three_reloads_that_do_not_help_are_the_end():
    service = FakeService(*[WRONG] * (1 + RELOADS))
    with pytest.raises(UnprovedError, match="digits must answer right after 3 reloads, but: digits must answer"):
        serving(service).watchdog.ask_all()
    assert service.reloads == RELOADS
    assert UnprovedError.exit_code == 7


def test_reloads_are_counted_over_several_faults_in_a_row():
    service = FakeService(*[WRONG, None] * RELOADS, WRONG)
    running = serving(service)
    for _ in range(RELOADS):
        running.watchdog.ask_all()
    with pytest.raises(UnprovedError):
        running.watchdog.ask_all()
    assert service.reloads == RELOADS


def test_a_late_answer_of_a_busy_server_is_no_fault():
    service = FakeService(LATE, LATE, LATE, progress=(10, 20, 30))
    running = serving(service)
    for _ in range(3):
        running.watchdog.ask_all()
    assert service.reloads == 0


def test_a_server_that_answers_nobody_is_dead_after_two_late_answers():
    service = FakeService(LATE, LATE, progress=(0, 0))
    running = serving(service)
    running.watchdog.ask_all()
    assert service.reloads == 0
    running.watchdog.ask_all()
    assert service.reloads == 1


def test_a_model_of_images_that_hangs_is_loaded_anew_though_the_other_goes_on():
    service = FakeService(image=(LATE, LATE), image_progress=(5, 5))
    running = serving(service)
    for _ in range(2):
        running.watchdog.ask_all()
    assert service.reloads == 1
    assert service.silent == [{"digits_image"}]


def test_a_model_of_images_that_is_busy_is_no_fault():
    service = FakeService(image=[LATE] * 3, image_progress=(5, 6, 7))
    running = serving(service)
    for _ in range(3):
        running.watchdog.ask_all()
    assert service.reloads == 0


def test_an_answer_in_time_between_two_late_ones_is_a_sign_of_life():
    service = FakeService(image=(LATE, None, LATE), image_progress=(5, 5))
    running = serving(service)
    for _ in range(3):
        running.watchdog.ask_all()
    assert service.reloads == 0


def test_what_asks_a_model_that_does_not_answer_is_not_judged():
    service = FakeService(LATE, image=(LATE,), progress=(5,))
    running = serving(service)
    running.watchdog.ask_all()
    assert service.proofs == 1


def test_a_model_that_was_late_is_asked_again_as_soon_as_one_that_was_not(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    service = FakeService(progress=(5,))
    running = serving(service)

    def asked(served, name):
        now[0] += 30
        raise LATE

    service.glance = asked
    running.watchdog.ask_all()
    assert running.watchdog._ask_at == pytest.approx(now[0])
    service.glance = lambda served, name: now.append(now.pop() + 1)
    running.watchdog.ask_all()
    assert running.watchdog._ask_at == pytest.approx(now[0] + 2 / SHARE)


def test_a_server_that_is_gone_is_said_with_how_it_ended():
    service = FakeService()
    service.process.is_alive = False
    with pytest.raises(UnprovedError, match="it ended with signal SIGSEGV: a fault"):
        serving(service).keep()


def test_a_service_that_is_given_up_says_why_its_end_takes_time_and_goes_on_to_drain_when_it_is_told_to():
    """A supervisor that sees it not ready sends its SIGTERM just then."""
    said, stopping = [], Stopping()
    running = serving(FakeService(*[WRONG] * (1 + RELOADS)), said.append, stopping)
    with pytest.raises(UnprovedError):
        running.keep()
    assert said[-1].startswith("digits must answer right after 3 reloads, but: digits must answer its golden vectors")
    assert "; it ends with 7, but drains first: what was accepted is still answered" in said[-1]
    stopping.tell()
    with pytest.raises(KeyboardInterrupt):
        stopping.tell()


def test_where_triton_is_gone_nothing_drains():
    service, said = FakeService(), []
    service.process.is_alive = False
    with pytest.raises(UnprovedError):
        serving(service, said.append).keep()
    assert said == []


def test_a_record_that_cannot_be_read_does_not_end_the_service(tmp_path):
    said = []
    running = serving(FakeService(), said.append)
    running.live[0].keep = tmp_path
    served_folder(tmp_path).mkdir()
    record_path(tmp_path).write_text("{")
    running._follow(running.live[0])
    running._follow(running.live[0])
    (line,) = said
    assert "version 1 stays" in line
    assert "served.json must be as `aaexport serve` wrote it" in line


def test_a_signal_gives_up_whatever_is_waited_for():
    """As a handler of the main thread, which a wait for an answer runs."""
    stopping = Stopping()
    for method in ("glance", "reload"):
        service = FakeService(WRONG)
        running = serving(service, stopping=(stopping := Stopping()))
        setattr(service, method, lambda *words: stopping.tell())
        running.keep()
        assert stopping.is_set()
        assert running.live[0].late == {}


def test_a_second_signal_ends_it_at_once():
    stopping = Stopping()
    stopping.tell()
    with pytest.raises(KeyboardInterrupt):
        stopping.tell()
    with pytest.raises(Interrupted), stopping.waiting():
        raise AssertionError


def test_outside_of_a_wait_a_signal_interrupts_nothing():
    stopping = Stopping()
    assert not stopping.wait(0)
    stopping.tell()
    assert stopping.wait(600)


def test_a_slow_model_that_is_in_a_run_is_waited_for_though_nothing_was_answered_meanwhile():
    """A full batch of it takes longer than two glances wait."""
    service = FakeService(LATE, LATE, LATE, progress=(5, 5, 5))
    running = serving(service)
    service.working = True
    for _ in range(3):
        running.watchdog.ask_all()
    assert service.reloads == 0
    service.faults["digits"], service.progresses["digits"], service.working = [LATE], [5], False
    running.watchdog.ask_all()
    assert service.reloads == 1


def test_where_the_image_model_answers_wrongly_both_are_loaded_anew_since_it_asks_the_other():
    service = FakeService(image=(WRONG,))
    running = serving(service)
    running.watchdog.ask_all()
    assert service.wrong == [{"digits", "digits_image"}]
