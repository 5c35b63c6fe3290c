"""LaPerm for PyTorch: as the Keras optimizer does it, bit for bit, and as PyTorch users expect."""

import copy
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import layers

import laperm_lib
from laperm_lib import permutation
from laperm_lib.errors import NonFiniteWeightError, UnknownLayerError

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from laperm_lib import torch as laperm_torch  # noqa: E402
from laperm_lib.torch import LaPerm  # noqa: E402

RNG = np.random.default_rng(0)


def tied(shape):
    """Few values, zeros of both signs among them."""
    return RNG.choice(np.array([-2, -1, -0.0, 0, 0.5, 1], "float32"), shape)


def gradients(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


X, Y = torch.randn(20, 2, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3


def train(module, optimizer, steps, schedule=None):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(X), Y).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()


def sgd(module, rate=0.5, momentum=0.9):
    return torch.optim.SGD(module.parameters(), rate, momentum)


# -- the synchronisation ---------------------------------------------------------------------------

# A module of PyTorch and a layer of Keras, its input, and the axes of Keras's kernel in PyTorch's.
PAIRS = {
    "dense": (nn.Linear(30, 4), layers.Dense(4), (None, 30), (1, 0)),
    "conv1d": (nn.Conv1d(5, 4, 6), layers.Conv1D(4, 6), (None, 9, 5), (2, 1, 0)),
    "conv2d": (nn.Conv2d(5, 4, (2, 3)), layers.Conv2D(4, (2, 3)), (None, 9, 9, 5), (3, 2, 0, 1)),
    "grouped": (
        nn.Conv2d(6, 4, 3, groups=2), layers.Conv2D(4, 3, groups=2), (None, 9, 9, 6), (3, 2, 0, 1)
    ),
    "conv3d": (nn.Conv3d(2, 4, 3), layers.Conv3D(4, 3), (None, 9, 9, 9, 2), (4, 3, 0, 1, 2)),
    "transposed": (
        nn.ConvTranspose2d(5, 4, (2, 3)), layers.Conv2DTranspose(4, (2, 3)), (None, 9, 9, 5),
        (3, 2, 0, 1),
    ),
    "embedding": (nn.Embedding(30, 4), layers.Embedding(30, 4), (None, 3), (0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_synchronises_as_the_keras_optimizer_does(name):
    module, layer, inputs, axes = PAIRS[name]
    layer.build(inputs)
    [kernel] = [v for v in layer.trainable_variables if len(v.shape) > 1]
    initial, trained = tied(kernel.shape), tied(kernel.shape)
    model = keras.Sequential([keras.Input(inputs[1:]), layer])
    ours = LaPerm(sgd(module), module, 3)
    theirs = laperm_lib.LaPerm("sgd", 3)
    with torch.no_grad():
        kernel.assign(initial)
        module.weight.copy_(torch.from_numpy(initial.transpose(axes).copy()))
        theirs.capture(model)
        ours.capture()
        kernel.assign(trained)
        module.weight.copy_(torch.from_numpy(trained.transpose(axes).copy()))
    theirs.synchronise()
    ours.synchronise()
    expected = keras.ops.convert_to_numpy(kernel).transpose(axes)
    found = module.weight.detach().numpy()
    np.testing.assert_array_equal(
        found.view("uint32"), np.ascontiguousarray(expected).view("uint32")
    )


rows = hnp.arrays(
    "float32",
    (3, 20),
    elements=st.sampled_from([-0.0, 0.0, 1e-45, -1e-45])
    | st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(weights=rows, start=rows)
def test_sorting_on_the_device_gives_the_same_bits(weights, start):
    initial = permutation.sort_values(start)
    found = laperm_torch._by_sorting(torch.from_numpy(weights), torch.from_numpy(initial))
    expected = permutation.reconnect(weights, initial)
    np.testing.assert_array_equal(found.numpy().view("uint32"), expected.view("uint32"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("units", [5, 2000])
def test_networks_of_any_size_and_precision(dtype, units):
    module = nn.Linear(100, units, dtype=dtype)
    start = module.weight.detach().clone()
    optimizer = LaPerm(sgd(module), module, 2)
    for _ in range(2):
        gradients(module)
        optimizer.step()
    assert optimizer.is_permutation()
    assert torch.equal(module.weight.sort(dim=1).values, start.sort(dim=1).values)
    assert not torch.equal(module.weight, start)


def test_modules_with_several_matrices_and_what_is_skipped():
    module = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(8, 2),
            "narrow": nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
            "lstm": nn.LSTM(3, 4, num_layers=2, proj_size=2),
            "cell": nn.GRUCell(3, 4),
            "bilinear": nn.Bilinear(2, 3, 4),
            "norm": nn.LayerNorm(8),
            "prelu": nn.PReLU(),
            "bag": nn.EmbeddingBag(9, 4),
        }
    )
    optimizer = LaPerm(sgd(module), module, 1)
    free = {name for name, _ in module.named_parameters()} - set(optimizer.permuted_parameters)
    assert all("bias" in name or name.startswith(("norm", "prelu")) for name in free)
    assert len(optimizer.permuted_parameters) == 2 + 4 + 6 + 2 + 1 + 1
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    every = LaPerm(sgd(module), module, 1, skip_bias=False, skip_batch_norm=False)
    assert len(every.permuted_parameters) == len(start)
    gradients(module)
    every.step()
    for name, parameter in module.named_parameters():
        whole = parameter.detach().flatten().sort().values
        assert torch.equal(whole, start[name].flatten().sort().values)
    assert every.is_permutation()


def test_transposed_convolutions_in_groups_keep_the_values_of_each_neuron():
    module = nn.ConvTranspose2d(6, 4, 3, groups=2)
    neurons = module.weight.detach().reshape(2, 3, 2, 3, 3).movedim(1, 2).reshape(4, 27)
    optimizer = LaPerm(sgd(module), module, 1)
    gradients(module)
    optimizer.step()
    now = module.weight.detach().reshape(2, 3, 2, 3, 3).movedim(1, 2).reshape(4, 27)
    assert torch.equal(now.sort(dim=1).values, neurons.sort(dim=1).values)
    assert not torch.equal(now, neurons)


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [3, lambda step: 3])
def test_between_synchronisations_it_is_the_inner_optimizer(period):
    module, free = network(), network()
    optimizer, alone = LaPerm(sgd(module), module, period), sgd(free)
    schedules = [torch.optim.lr_scheduler.StepLR(each, 2, gamma=0.5) for each in (optimizer, alone)]
    start = [p.detach().clone() for p in free.parameters()]
    for step in range(1, 8):
        train(module, optimizer, 1, schedules[0])
        train(free, alone, 1, schedules[1])
        if step % 3 == 0:
            with torch.no_grad():
                for number, keep in ((0, (0, 2, 3, 1)), (4, (0, 1))):
                    p = list(free.parameters())[number]
                    flat = [t.permute(keep).reshape(len(p), -1).numpy() for t in (p, start[number])]
                    new = permutation.reconnect(flat[0], permutation.sort_values(flat[1]))
                    shape = [p.shape[axis] for axis in keep]
                    back = [keep.index(axis) for axis in range(p.ndim)]
                    p.copy_(torch.from_numpy(new).reshape(shape).permute(back))
        for ours, theirs in zip(module.parameters(), free.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        assert optimizer.is_permutation() == (step % 3 == 0)
    assert optimizer.param_groups[0]["lr"] == alone.param_groups[0]["lr"] == 0.5 / 8


def test_whole_trainings_are_those_of_the_keras_optimizer_within_rounding():
    """Values far apart keep their order whatever the rounding."""
    start = RNG.permuted(np.tile(np.linspace(-1, 1, 30, dtype="float32"), (4, 1)), axis=1)
    x, y = RNG.normal(size=(12, 30)).astype("float32"), RNG.normal(size=(12, 4)).astype("float32")
    module = nn.Linear(30, 4, bias=False)
    module.weight.data.copy_(torch.from_numpy(start))
    optimizer = LaPerm(sgd(module, 0.5), module, 3)
    model = keras.Sequential([keras.Input((30,)), layers.Dense(4, use_bias=False)])
    model.layers[0].kernel.assign(start.T)
    model.compile(
        laperm_lib.LaPerm(keras.optimizers.SGD(0.5, momentum=0.9), 3), "mse", jit_compile=False
    )
    for _ in range(9):
        optimizer.zero_grad()
        nn.functional.mse_loss(module(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        optimizer.step()
    model.fit(x, y, batch_size=12, epochs=9, verbose=0)
    theirs = keras.ops.convert_to_numpy(model.layers[0].kernel).T
    np.testing.assert_array_equal(module.weight.detach().numpy(), theirs)
    assert (theirs != start).mean() > 0.5


def test_a_training_resumes_from_its_state_as_if_uninterrupted(tmp_path):
    whole, first = network(), network()
    train(whole, LaPerm(torch.optim.Adam(whole.parameters()), whole, 4), 10)
    optimizer = LaPerm(torch.optim.Adam(first.parameters()), first, 4)
    train(first, optimizer, 6)
    torch.save([first.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    network_state, state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = network()
    resumed.load_state_dict(network_state)
    optimizer = LaPerm(torch.optim.Adam(resumed.parameters()), resumed, 4)
    optimizer.load_state_dict(state)
    assert not optimizer.is_permutation()
    train(resumed, optimizer, 2)
    assert optimizer.is_permutation()
    train(resumed, optimizer, 2)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    other = nn.Linear(3, 2)
    for wrong, why in ((state, "of another module"), (sgd(other).state_dict(), "not saved by")):
        with pytest.raises(ValueError, match=why):
            LaPerm(sgd(other), other, 4).load_state_dict(wrong)


def test_a_copy_trains_by_itself():
    module = network()
    optimizer = LaPerm(sgd(module), module, 2)
    train(module, optimizer, 1)
    both = copy.deepcopy((module, optimizer))
    train(*both, 3)
    assert both[1].is_permutation()
    assert optimizer.steps == 1


def test_layers_that_are_unfrozen_later_are_captured_then():
    module = network()
    optimizer = LaPerm(torch.optim.SGD(module[0].parameters(), 0.1), module, 1)
    train(module, optimizer, 1)
    assert optimizer.permuted_parameters == ["0.weight"]
    with torch.no_grad():
        module[4].weight.fill_(0.5)
        module[4].weight[:, ::2] = -1
    optimizer.add_param_group({"params": list(module[4].parameters()), "lr": 0.3})
    train(module, optimizer, 2)
    assert [group["lr"] for group in optimizer.inner.param_groups] == [0.1, 0.3]
    assert set(module[4].weight.detach().unique().tolist()) == {-1.0, 0.5}


def test_scaled_gradients_and_compiled_modules():
    module = network()
    start = module[0].weight.detach().clone().reshape(4, -1)
    compiled = torch.compile(module, backend="eager")
    optimizer = LaPerm(sgd(compiled), compiled, 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(4):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(compiled(X), Y)
        scaler.scale(loss).backward()
        if step == 1:
            module[0].weight.grad[0] = float("inf")  # a step to be skipped
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.steps == 3
    optimizer.synchronise()
    assert torch.equal(module[0].weight.detach().reshape(4, -1).sort().values, start.sort().values)


# -- errors ----------------------------------------------------------------------------------------


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 5))
        self.linear = nn.Linear(5, 2)


def test_what_cannot_be_trained_is_said():
    module = network()
    for inner, of, period, why in [
        ("sgd", module, 3, "inner is an optimizer of torch.optim"),
        (LaPerm(sgd(module), module, 3), module, 3, "inner is an optimizer of torch.optim"),
        (sgd(module), "module", 3, r"module is a torch.nn.Module"),
        *((sgd(module), module, period, "sync_period") for period in (0, 2.5, True)),
        (sgd(nn.Linear(2, 2)), module, 3, "Nothing is left to permute"),
    ]:
        with pytest.raises(ValueError, match=why):
            LaPerm(inner, of, period)
    optimizer = LaPerm(sgd(module), module, 3)
    for call in (optimizer.synchronise, optimizer.is_permutation):
        with pytest.raises(ValueError, match="No initial values yet"):
            call()
    own = Own()
    with pytest.raises(UnknownLayerError, match=r"'table' \(Own, shape \(4, 5\)\)"):
        LaPerm(sgd(own), own, 3)
    assert LaPerm(sgd(own), own, 3, exclude="table").permuted_parameters == ["linear.weight"]


def test_weights_that_are_not_finite_are_named_and_none_is_changed():
    module = network()
    optimizer = LaPerm(sgd(module), module, 2)
    train(module, optimizer, 1)
    with torch.no_grad():
        module[4].weight[0, 0] = float("nan")
    before = module[0].weight.detach().clone()
    with pytest.raises(NonFiniteWeightError, match=r"'4\.weight' holds a NaN"):
        optimizer.synchronise()
    assert torch.equal(module[0].weight, before)
    with pytest.raises(NonFiniteWeightError, match=r"'4\.weight'"):
        optimizer.capture()


def test_keras_is_not_imported():
    code = "import sys, laperm_lib.torch; assert 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
