"""A lost device, and one without room: the same text goes on. Natively the device is destroyed
under the model, at the GPU call that a test names."""

import asyncio
import contextlib
import itertools
import re

import pytest
import wgpu

import reference
import small_models
from adapters import ADAPTERS, new_device
from gpt2web import GPT2CausalLM, origin, samplers, selftest
from gpt2web.blocking import block_on
from gpt2web.checkpoint import CheckpointError
from gpt2web.gpu import Device, DeviceError, DeviceLost, OutOfMemory, Readback
from gpt2web.limits import weights_bytes
from gpt2web.nudge import Nudge, looks_slowly
from gpt2web.precision import PRECISIONS
from gpt2web.stream import Sent

pytestmark = pytest.mark.gpu

OPTIONS = {"temperature": 0.9, "top_k": 60, "repetition_penalty": 1.2, "seed": 7, "logprobs": 2}
PROMPT = "a prompt long enough for two chunks " * 8  # 288 ids of a context of 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = small_models.random_model()
    return small_models.write_folder(tmp_path_factory.mktemp("random"), model)


def lose(device):
    """The device is gone. Mappings under way are there before: natively destroy() also ends the
    thread that tells of them, and whoever waits would do so for ever."""
    with contextlib.suppress(DeviceError):
        block_on(device.settled(), "settled")
    device.device.destroy()


class Counted:
    """GPU calls of one kind: what `at` (by number, from 0) does to the device then."""

    def __init__(self, monkeypatch, owner, method):
        self.calls, self.at, self.then, self.losing = 0, set(), None, False
        original = getattr(owner, method)

        def counted(*arguments, **options):
            number, self.calls = self.calls, self.calls + 1
            if number in self.at and not self.losing:
                self.losing = True
                self.then()
                self.losing = False
            return original(*arguments, **options)

        monkeypatch.setattr(owner, method, counted)

    def lose(self, devices, *at):
        """Loses the newest device at these calls from now on."""
        self.calls, self.at = 0, set(at)
        self.then = lambda: lose(devices[-1])


@pytest.fixture
def submits(monkeypatch):
    """A device lost between the end of an encoder and its submit ends the process natively."""
    return Counted(monkeypatch, Device, "submit")


@pytest.fixture
def takes(monkeypatch):
    """Waits for a readback: the device is lost while one is on its way."""
    return Counted(monkeypatch, Readback, "take")


def load(folder, **options):
    return GPT2CausalLM.from_preset(folder, adapter="llvmpipe", **options)


def pieces(lm, prompt="Once", **options):
    async def run():
        return [piece async for piece in lm.stream(prompt, **{**OPTIONS, **options})]

    return asyncio.run(run())


def told(found, row=0):
    """What a reader has of a row in the end: text, ids, probabilities, and how it ended."""
    own = [piece for piece in found if piece.row == row]
    logprobs = [round(value, 4) for piece in own for value in piece.logprobs]
    top = [[id_ for id_, _ in pairs] for piece in own for pairs in piece.top]
    ids = [id_ for piece in own for id_ in piece.ids]
    return "".join(piece.text for piece in own), ids, logprobs, top, own[-1].finish_reason


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_device_knows_that_it_was_lost_whatever_is_asked_of_it(adapter):
    asked = {
        "tensor": lambda device, tensor: device.tensor((4,)),
        "write": lambda device, tensor: device.write(tensor, bytes(16)),
        "submit": lambda device, tensor: device.submit([], copies=[(tensor, 0, tensor, 0, 16)]),
        "read": lambda device, tensor: block_on(tensor.read(), "read"),
        "settled": lambda device, tensor: block_on(device.settled(), "settled"),
    }
    for name, ask in asked.items():
        device = new_device(adapter)
        tensor = device.tensor((4,))
        block_on(device.settled(), "settled")
        assert device.lost is None
        lose(device)
        with pytest.raises(DeviceLost, match=f"{adapter}.* was lost: Parent device is lost"):
            ask(device, tensor)
        assert "lost" in device.lost, name
        device.destroy()
        assert "lost" in device.lost  # whoever still waits is to hear of that


def test_a_device_that_was_destroyed_on_purpose_was_not_lost():
    device = new_device("llvmpipe")
    tensor = device.tensor((4,))
    block_on(device.settled(), "settled")
    device.destroy()
    with pytest.raises(DeviceError, match="closed") as raised:
        block_on(tensor.read(), "read")
    assert device.lost is None and raised.value.code == "closed"


def test_an_error_that_is_no_loss_stays_what_it_is():
    device = new_device("llvmpipe")
    with pytest.raises(DeviceError) as raised:
        device.submit([], copies=[(device.tensor((4,)), 0, device.tensor((4,)), 0, 64)])
    assert not isinstance(raised.value, DeviceLost) and device.lost is None
    assert block_on(device.tensor((2,)).read(), "read").tolist() == [0, 0]
    device.destroy()


def test_a_text_goes_on_wherever_its_device_is_lost(folder, devices, submits, takes):
    told_of = []
    lm = load(folder, recovering=told_of.append)
    submits.lose(devices)
    takes.lose(devices)
    wanted = told(pieces(lm, max_new_tokens=40))
    count = submits.calls, takes.calls
    assert len(wanted[1]) == 40 and min(count) > 5
    pieces(lm, "x", max_new_tokens=1)  # another prompt in the cache
    places = [(submits, at) for at in (0, 1, 3)] + [(takes, at) for at in (0, 2)]
    for calls, at in places:
        before = len(devices)
        calls.lose(devices, at)
        assert told(pieces(lm, max_new_tokens=40)) == wanted, at
        calls.lose(devices)
        assert len(devices) == before + 1  # it was lost indeed
        assert not devices[-2].live  # and nothing of it is held
    assert told_of == [origin.RESTARTING, None] * len(places)
    lm.close()


def test_a_text_that_lost_its_device_again_and_again_is_the_same(folder, devices, takes):
    lm = load(folder)
    wanted = told(pieces(lm, max_new_tokens=24, steps_per_submit=4))
    takes.lose(devices, 1, 5, 9)
    assert told(pieces(lm, max_new_tokens=24, steps_per_submit=4)) == wanted
    assert len(devices) == 4
    lm.close()


def test_it_goes_on_from_a_loss_between_the_chunks_of_a_prompt(folder, devices, submits):
    lm = load(folder)
    wanted = told(pieces(lm, PROMPT, max_new_tokens=8))
    pieces(lm, "x", max_new_tokens=1)
    submits.lose(devices, 2)  # the first chunk is there
    assert told(pieces(lm, PROMPT, max_new_tokens=8)) == wanted
    assert len(devices) == 2
    lm.close()


def test_a_batch_and_a_stop_text_go_on_as_if_nothing_had_been(folder, devices, takes):
    lm = load(folder)
    prompts = ["Once", "a longer one", "b"]
    free = [told(pieces(lm, prompts, max_new_tokens=30), row) for row in range(3)]
    stop = next(c for text, *_ in free for c in text[4:] if c.isascii())
    wanted = [told(pieces(lm, prompts, max_new_tokens=30, stop=stop), row) for row in range(3)]
    assert "stop" in [reason for *_, reason in wanted]
    assert len({len(ids) for _, ids, *_ in wanted}) > 1  # one row ends before the others
    for at in (1, 3, 4):
        takes.lose(devices, at)
        found = pieces(lm, prompts, max_new_tokens=30, stop=stop)
        takes.lose(devices)
        assert [told(found, row) for row in range(3)] == wanted
    assert len(devices) == 4
    lm.close()


@pytest.mark.parametrize("sampler", ["top_k", "beam", "contrastive", "own"])
def test_generate_goes_on_with_every_kind_of_sampler(folder, devices, submits, sampler):
    class Own(samplers.Sampler):
        def get_next_token(self, probabilities):
            return [row.index(max(row)) for row in probabilities]

    lm = load(folder)
    given = Own() if sampler == "own" else samplers.get(sampler)

    def generate():
        given.calls = 0
        lm.compile(given)
        return lm.generate(["Once", "the end"], max_length=16)

    wanted = generate()
    submits.lose(devices, 2)
    assert generate() == wanted
    assert len(devices) == 2
    lm.close()


def test_a_device_lost_while_it_loads_is_replaced_and_told_of(folder, devices, submits):
    load(folder).close()
    submits.lose(devices)
    load(folder).close()
    count = submits.calls
    assert count > 10
    for at in (0, count // 2, count - 1):
        told_of, before = [], len(devices)
        submits.lose(devices, at)
        lm = load(folder, recovering=told_of.append)
        submits.lose(devices)
        assert len(devices) == before + 2 and told_of == [origin.RESTARTING, None]
        assert len(told(pieces(lm, max_new_tokens=3))[1]) == 3
        lm.close()
    assert not any(device.live for device in devices)


def test_a_device_lost_while_nothing_runs_is_replaced_by_the_next_call(folder, devices):
    lm = load(folder)
    wanted = lm.perplexity("the fox"), lm([[1, 2]]).numpy().tolist()
    lose(devices[-1])
    with pytest.raises(DeviceLost):
        lm.perplexity("the fox")  # natively nobody has told of it before
    assert (lm.perplexity("the fox"), lm([[1, 2]]).numpy().tolist()) == wanted
    assert len(devices) == 2
    lm.close()


def test_a_call_that_finds_the_loss_first_leaves_the_text_beside_it_whole(folder, devices, takes):
    lm = load(folder)
    wanted = told(pieces(lm, max_new_tokens=30)), lm.perplexity("the fox")
    tried = []

    async def both():
        stream = lm.stream("Once", **OPTIONS, max_new_tokens=30)
        found = [await anext(stream), await anext(stream)]
        lose(devices[-1])
        for _ in range(2):
            with contextlib.suppress(DeviceLost):
                tried.append(await lm.perplexity_async("the fox"))
        assert len(devices) == 2  # the other one is there before the text asks for it
        return told(found + [piece async for piece in stream])

    assert (asyncio.run(both()), *tried) == wanted
    assert len(devices) == 2
    lm.close()


def test_an_inspection_is_made_anew_and_one_on_a_lost_device_says_so(folder, devices, submits):
    lm = load(folder)
    wanted = lm.inspect([5, 6, 7])
    attention, lens = wanted.attention.numpy().tolist(), wanted.lens
    submits.lose(devices, 3)
    found = lm.inspect([5, 6, 7])
    assert len(devices) == 2
    assert (found.attention.numpy().tolist(), found.lens) == (attention, lens)
    submits.lose(devices)
    with pytest.raises(DeviceLost):
        wanted.next_tokens()
    assert found.next_tokens().kept
    lm.close()


def test_what_lay_on_a_lost_device_is_named(folder, devices):
    lm = load(folder)
    _, cache = lm.build_cache([[1, 2, 0]])
    lose(devices[-1])
    with pytest.raises(DeviceLost):
        lm([[1, 2]])
    with pytest.raises(DeviceLost, match="the cache lay on a GPU device that was lost: build it"):
        lm.call_with_cache([[3]], cache, 2)
    _, cache = lm.build_cache([[1, 2, 0]])
    lm.call_with_cache([[3]], cache, 2)
    lm.close()


def test_one_lost_three_times_in_a_row_is_lost_for_good_and_may_be_tried_again(
    folder, devices, submits
):
    lm = load(folder)
    wanted = told(pieces(lm, max_new_tokens=4))
    before = len(devices)
    submits.lose(devices, *range(10_000))
    with pytest.raises(DeviceError, match=r"lost 3 times in a row, so it is lost for good: rest"):
        pieces(lm, max_new_tokens=4)
    assert len(devices) - before <= 4
    submits.lose(devices)
    assert told(pieces(lm, max_new_tokens=4)) == wanted
    lm.close()


def test_cancelling_and_closing_while_it_is_started_again(folder, devices, takes):
    lm = load(folder)
    stream = lm.stream("Once", **OPTIONS, max_new_tokens=30)
    takes.at, takes.calls = {1}, 0
    takes.then = lambda: (lose(devices[-1]), stream.cancel())

    async def run():
        return [piece async for piece in stream]

    assert asyncio.run(run())[-1].finish_reason == "cancelled"
    takes.at = set()
    stream = lm.stream("Once", **OPTIONS, max_new_tokens=30)
    takes.at, takes.calls = {1}, 0
    takes.then = lambda: (lose(devices[-1]), lm.close())
    with pytest.raises(DeviceError, match="closed"):
        asyncio.run(run())
    assert not any(device.live for device in devices)


def test_weights_that_came_from_no_folder_are_lost_with_their_device(tmp_path):
    device = new_device("llvmpipe")
    lm = small_models.load(device, small_models.random_model(), tmp_path)
    lose(device)
    with pytest.raises(DeviceLost):
        lm([[1, 2]])
    with pytest.raises(DeviceError, match=r"lost, with the weights on it .*: load the model") as e:
        lm([[1, 2]])
    assert e.value.code == "device-lost" and not isinstance(e.value, DeviceLost)


def test_weights_given_in_the_place_of_a_folders_are_not_replaced_by_them(folder, devices):
    lm = load(folder)
    weights = {**small_models.random_model().weights}
    with pytest.raises(ValueError, match="wte"):
        lm.backbone.load_weights({name: w for name, w in weights.items() if "wte" not in name})
    lose(devices[-1])
    with pytest.raises(DeviceLost):
        lm([[1, 2]])
    lm([[1, 2]])  # the folder's: the others were refused
    lm.backbone.load_weights(weights)
    assert lm.info["self_test"] == "passed"
    lose(devices[-1])
    with pytest.raises(DeviceLost):
        lm([[1, 2]])
    with pytest.raises(DeviceError, match="load the model again"):
        lm([[1, 2]])
    lm.close()


def test_a_folder_that_is_gone_is_named_and_the_model_works_once_it_is_back(
    folder, devices, tmp_path
):
    moved = tmp_path / "model"
    folder = small_models.write_folder(moved, small_models.random_model())
    lm = load(folder)
    wanted = told(pieces(lm, max_new_tokens=4))
    weights = moved / "model.safetensors"
    lose(devices[-1])
    weights.rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        pieces(lm, max_new_tokens=4)
    (tmp_path / "away").rename(weights)
    assert told(pieces(lm, max_new_tokens=4)) == wanted
    lm.close()


def test_a_stream_goes_on_behind_the_pieces_of_one_that_broke_off(folder, devices):
    lm = load(folder)
    options = {"max_new_tokens": 40, "stop": ["\n\n\n", "zq"], "steps_per_submit": 1}
    prompts = ["Once", "a longer one", "b", [5] * 300]  # the last fills the context
    rows = range(len(prompts))
    free = ["".join(p.text for p in pieces(lm, prompts, **options) if p.row == row) for row in rows]
    pairs = (a + b for a, b in itertools.pairwise(free[0][8:]))
    options["stop"] += [next(pair for pair in pairs if pair not in free[2])]
    whole = pieces(lm, prompts, **options)
    wanted = [told(whole, row) for row in rows]
    assert [reason for *_, reason in wanted] == ["stop", "stop", "length", "context"]
    assert 8 <= len(wanted[0][0]) < len(wanted[2][0]) and not wanted[1][0]  # by text, at once, not
    for cut in range(0, len(whole) - 1, 5):
        stream = lm.stream(prompts, **{**OPTIONS, **options})
        stream.resume([sent(whole[:cut], row) for row in rows])

        async def run(stream=stream):
            return [piece async for piece in stream]

        found = whole[:cut] + asyncio.run(run())
        assert [told(found, row) for row in rows] == wanted
    lm.close()


def sent(found, row):
    own = [piece for piece in found if piece.row == row]
    characters = sum(len(piece.text) for piece in own)
    ids = [id_ for piece in own for id_ in piece.ids]
    return Sent(ids, characters, any(piece.finish_reason for piece in own))


def test_a_stream_with_nothing_to_go_on_with_says_so(folder, devices):
    lm = load(folder)
    for given in ([Sent([1, 2, 3], 3, False)], [Sent([1], 1, False)] * 2):
        with pytest.raises(ValueError, match="go on"):
            lm.stream("Once", max_new_tokens=3).resume(given)
    lm.close()


class FullGPU:
    """A device's create_buffer, until `room` bytes have been taken; what is freed stays taken."""

    def __init__(self, device, room):
        self.create, self.room, self.taken = device.device.create_buffer, room, 0

    def __call__(self, *, size, usage):
        if self.taken + size > self.room:
            raise wgpu.GPUOutOfMemoryError("Not enough memory left.")
        self.taken += size
        return self.create(size=size, usage=usage)


@pytest.fixture
def full(monkeypatch, devices):
    """Sets the bytes that every new device has; gives the devices' create_buffers."""
    made = []
    request = Device.request

    async def small(*arguments, **options):
        device = await request(*arguments, **options)
        made.append(FullGPU(device, small.room))
        monkeypatch.setattr(device.device, "create_buffer", made[-1])
        return device

    small.room, small.made = 1 << 40, made
    monkeypatch.setattr(Device, "request", small)
    return small


def test_a_gpu_without_room_gets_the_largest_precision_that_fits(folder, devices, full):
    taken = {}
    for precision in PRECISIONS:
        lm = load(folder, precision=precision)
        assert (lm.info["precision"], lm.info["notice"]) == (precision, None)
        config = lm.backbone.config
        taken[precision] = full.made[-1].taken
        lm.close()
    assert sorted(taken.values(), reverse=True) == list(taken.values())
    for precision in PRECISIONS[1:]:
        before = PRECISIONS[PRECISIONS.index(precision) - 1]
        full.room = taken[precision]
        lm = load(folder)
        assert lm.info["precision"] == precision
        numbers = re.search(
            rf"no room on the GPU for the weights in {before}: ([0-9,]+) bytes were needed, "
            rf"([0-9,]+) could be had. They are kept in {precision} instead.$",
            lm.info["notice"],
        )
        needed, had = (int(number.replace(",", "")) for number in numbers.groups())
        assert needed >= weights_bytes(config, before) and 0 < had < needed
        full.made[-1].room = 1 << 40  # log-probabilities take some more
        assert len(told(pieces(lm, max_new_tokens=3))[1]) == 3
        lm.close()
    full.room = taken["int4"] - 1
    with pytest.raises(DeviceError, match=r"no room .* in int4: [0-9,]+ bytes .* smaller model$"):
        load(folder)
    assert not any(device.live for device in devices)


def test_where_only_f32_computes_as_it_should_no_room_ends_in_an_error(
    folder, devices, full, monkeypatch
):
    tried = []

    async def only_f32(device, precision, memory):
        tried.append(precision)
        return "f32", f"passed in f32; {precision} failed"

    monkeypatch.setattr(selftest, "run", only_f32)
    lm = load(folder, precision="f16")
    assert (lm.info["precision"], tried) == ("f32", ["f16"])
    lm.close()
    full.room = full.made[-1].taken // 2
    with pytest.raises(DeviceError, match=r"no room .* in f32: [0-9,]+ bytes were needed"):
        load(folder, precision="f16")
    assert tried == ["f16", "f16", "int8", "int4"]
    assert not any(device.live for device in devices)


def test_a_packed_folder_without_room_is_refused_with_both_numbers(tmp_path, devices, full):
    model = small_models.random_model()
    folder = small_models.write_folder(tmp_path / "packed", model)
    packed = reference.packed(model.weights, "int8")
    reference.write_safetensors(folder / "model.safetensors", packed)
    load(folder).close()
    full.room = full.made[-1].taken // 2
    with pytest.raises(DeviceError, match=r"packed in int8: [0-9,]+ bytes were needed, [0-9,]+ c"):
        load(folder)
    assert not any(device.live for device in devices)


def test_a_batch_without_room_is_refused_and_the_model_goes_on(folder, devices, full):
    lm = load(folder)
    wanted = told(pieces(lm, max_new_tokens=3))
    full.made[-1].room = full.made[-1].taken + 100_000
    with pytest.raises(OutOfMemory, match=r"no GPU memory for [0-9,]+ bytes"):
        pieces(lm, ["Once"] * 64, max_new_tokens=30)
    full.made[-1].room = 1 << 40
    assert told(pieces(lm, max_new_tokens=3)) == wanted
    assert len(devices) == 1
    lm.close()


def test_empty_submits_wake_firefox_while_something_is_awaited():
    now, due, submits = 0.0, [], []
    nudge = Nudge(lambda: submits.append(now), lambda delay, call: due.append((now + delay, call)))

    def run(until):
        nonlocal now
        while due and due[0][0] <= until:
            now, call = due.pop(0)
            call()
        now = until

    nudge.begin()
    run(0.010)
    assert 9 <= len(submits) <= 10
    assert all(b - a >= 0.00099 for a, b in itertools.pairwise(submits))
    nudge.begin()  # two at once wake it no more often
    nudge.end()
    run(0.020)
    assert 18 <= len(submits) <= 20
    nudge.end()
    run(1.0)
    assert len(submits) <= 20 and not due  # nothing goes on once nothing is awaited
    nudge.begin()
    assert len(due) == 1


def test_only_firefox_is_woken():
    chromium = "Mozilla/5.0 (X11) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0 Safari/537.36"
    assert looks_slowly("Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0")
    assert not looks_slowly(chromium)
    assert re.search("Gecko", chromium)
