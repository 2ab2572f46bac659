# A program that works while things go wrong, and writes down what became of every single thing that it asked for: one
# JSON object a line, tally.Operation. Its arguments: the file, the seconds, where things run ("-": anywhere), kinds.
#
#   call      a function with retries: its value, once, whatever dies
#   instance  calls to an instance that comes back when it dies, ten at a time: in order, none twice, none missing
#   create    a new instance up to its first answer: is there anybody who places things?
#   name      the same, under a name, and found by it: does the leader answer?
#   object    a value made here, read where things run, and read here again

import json
import threading

seconds, place, kinds = float(sys.argv[2]), sys.argv[3], sys.argv[4].split(",")
patience = 30.0
retries = 100
workers = 2  # of each function: there must be room for instances too
pause = 0.01  # between batches: two cores carry several computers at once
here = {} if place == "-" else {place: 1}


def options(**more):
    return yr.InvokeOptions(cpu=300, memory=128, custom_resources=here, **more)


@yr.invoke
def double(x):
    time.sleep(0.002)
    return 2 * x


@yr.invoke
def size(data):
    return len(data), data[:16]


@yr.instance
class Ledger:
    """Remembers what numbers its caller has sent, for as long as this process lives."""

    def __init__(self):
        self.life, self.last, self.seen, self.twice = os.urandom(8).hex(), 0, set(), []

    def add(self, number):
        before, self.last = self.last, number
        if number in self.seen:
            self.twice.append(number)
        self.seen.add(number)
        return self.life, before

    def audit(self):
        """The numbers that came more than once; also those whose second coming nobody was told of."""
        return self.twice


@yr.instance
class Hello:
    def hello(self):
        return "hello"


class Notes:
    """The operations, written as they end."""

    def __init__(self, path):
        self.lock, self.file = threading.Lock(), open(path, "w")  # noqa: SIM115

    def add(self, kind, began, outcome, why=""):
        note = {"kind": kind, "outcome": outcome, "why": why, "began": began, "ended": time.monotonic()}
        with self.lock:
            self.file.write(json.dumps(note) + "\n")
            self.file.flush()


notes = Notes(sys.argv[1])
stop_at = time.monotonic() + seconds


def ask(kind, began, result, check):
    """Awaits one result and notes what became of it; the value, or None if there is none."""
    try:
        value = result()
    except yr.YRTimeoutError as e:
        notes.add(kind, began, "hung" if time.monotonic() - began >= patience - 1 else "failed", text(e))
    except yr.YRError as e:
        notes.add(kind, began, "failed", text(e))
    except BaseException as e:
        notes.add(kind, began, "untyped", text(e))
    else:
        outcome, why = check(value)
        notes.add(kind, began, outcome, why)
        return value
    return None


def text(e):
    return f"{type(e).__name__}: {str(e)[:300]}"


def equal(want):
    def check(value):
        return ("acknowledged", "") if value == want else ("wrong", f"{value!r} instead of {want!r}")

    return check


def calls():
    double.options(options(retry_times=retries, max_instances=workers))
    number = 0
    while time.monotonic() < stop_at:
        began, batch = time.monotonic(), []
        for _ in range(8):
            number += 1
            batch.append((number, double.invoke(number)))
        for n, ref in batch:
            ask("call", began, lambda ref=ref: yr.get(ref, timeout=patience), equal(2 * n))
        time.sleep(pause)


def once(twice):
    return ("duplicated", f"{len(twice)} calls, such as {twice[:10]}") if twice else ("acknowledged", "")


class Order:
    """What the ledger must say of calls that were sent in the order of their numbers."""

    def __init__(self):
        self.life, self.highest, self.unknown = None, 0, set()

    def check(self, number):
        def check(answer):
            life, before = answer
            expected, self.highest = self.highest, number
            if life != self.life:  # it was made again, and knows nothing
                self.life = life
                if before and before not in self.unknown:
                    return "duplicated", f"{before} was acknowledged, and carried out again by a new ledger"
                return "acknowledged", ""
            if before == number:
                return "duplicated", f"{number} was there already"
            if before > number:
                return "reordered", f"{number} came after {before}, at {life}"
            # Calls that failed may have been carried out or not.
            missing = set(range(before + 1, number)) - self.unknown
            if missing:
                return "lost", f"{number} came, but {sorted(missing)} did not (acknowledged up to {expected})"
            return "acknowledged", ""

        return check


def instances():
    number, order = 0, Order()
    ledger = Ledger.options(options(recover_retry_times=retries)).invoke()
    while time.monotonic() < stop_at:
        began, batch = time.monotonic(), []
        for _ in range(10):
            number += 1
            batch.append((number, ledger.add.invoke(number)))
        failed = 0
        for n, ref in batch:
            if ask("instance", began, lambda ref=ref: yr.get(ref, timeout=patience), order.check(n)) is None:
                order.unknown.add(n)
                failed += 1
        time.sleep(5 * pause if failed else pause)
    ask("instance", time.monotonic(), lambda: yr.get(ledger.audit.invoke(), timeout=patience), once)
    ledger.terminate()


def creations():
    hello = Hello.options(options())
    while time.monotonic() < stop_at:
        began = time.monotonic()
        instance = hello.invoke()
        ref = instance.hello.invoke()
        ask("create", began, lambda ref=ref: yr.get(ref, timeout=patience), equal("hello"))
        instance.terminate()
        time.sleep(pause)


def names():
    number = 0
    while time.monotonic() < stop_at:
        began, number = time.monotonic(), number + 1
        name = f"load-{os.getpid()}-{number}"

        def found():
            Hello.options(options(name=name)).invoke()
            return yr.get(yr.get_instance(name, timeout=patience).hello.invoke(), timeout=patience)

        ask("name", began, found, equal("hello"))
        with contextlib.suppress(yr.YRError):
            yr.get_instance(name, timeout=patience).terminate()
        time.sleep(pause)


def objects():
    size.options(options(retry_times=retries, max_instances=workers))
    number = 0
    while time.monotonic() < stop_at:
        began, number = time.monotonic(), number + 1
        data = number.to_bytes(16, "little") + bytes(300_000)
        try:
            ref = yr.put(data)
        except yr.YRError as e:
            notes.add("object", began, "failed", text(e))
            continue
        result = size.invoke(ref)
        ask("object", began, lambda ref=result: yr.get(ref, timeout=patience), equal((len(data), data[:16])))
        ask("object", began, lambda ref=ref: yr.get(ref, timeout=patience), equal(data))
        time.sleep(pause)


work = {"call": calls, "instance": instances, "create": creations, "name": names, "object": objects}


def kept(kind):
    """A thread that ends early must be noticed."""
    try:
        work[kind]()
    except BaseException as e:
        notes.add(kind, time.monotonic(), "untyped", text(e))
        raise


yr.init()
for kind in kinds:  # everything is warm before the first fault
    if kind in ("call", "object"):
        yr.get(double.options(options(retry_times=retries)).invoke(1), timeout=patience)
say("working")
threads = [threading.Thread(target=kept, args=(kind,), daemon=True) for kind in kinds]
for t in threads:
    t.start()
for t in threads:
    t.join(seconds + 3 * patience)
    assert not t.is_alive(), "a thread of the load hangs"
yr.finalize()
say("done")
