"""The network: counts, gradients, receptive field, symmetries, batch norm, values of constant weights."""

import pytest
import torch
from torch import Tensor

from benchmarks.dran import PlainDRAN, inference, network, training_step
from medrepro.dran.network import DRAN, PRESETS, load_network, save_network
from tests.dran.reference import close

SMALL = {"features": 8, "layers": 2}


def small(preset: str = "paper", seed: int = 0, **options) -> DRAN:
    torch.manual_seed(seed)
    return DRAN(preset, **{**SMALL, **options}).eval()


def equal_attention(net: DRAN) -> DRAN:
    for module in net.modules():
        if hasattr(module, "excite"):
            torch.nn.init.zeros_(module.excite.weight)
    return net


def image(*shape: int, seed: int = 3) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(2, 2), (17, 33), (40, 44)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_d01_output_has_the_shape_of_the_input(preset, size, batch, in_channels):
    net = small(preset, in_channels=in_channels)
    x = image(batch, in_channels, *size)
    assert net(x).shape == x.shape
    assert net.fuse()(x).shape == x.shape


@pytest.mark.parametrize("size", [(1, 8), (8, 1)])
def test_d01_a_side_of_one_names_the_minimum(size):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} is too small: the minimum of each side is 2"):
        small()(image(1, 3, *size))


def test_wrong_channels_name_the_shape():
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(1, 1, 8, 8\)"):
        small()(image(1, 1, 8, 8))


def test_d02_parameters_of_both_presets():
    counts = {preset: sum(p.numel() for p in DRAN(preset).parameters()) for preset in PRESETS}
    assert counts == {"paper": 2_458_944, "authors_code": 969_664}
    net = DRAN("authors_code")
    assert sum(p.numel() for p in net.blocks.parameters()) == 744_640
    assert sum(p.numel() for p in net.gates[0].parameters()) == 73_856


@pytest.mark.parametrize("preset", PRESETS)
def test_d03_every_parameter_gets_a_gradient(preset):
    net = small(preset).train()
    net(image(2, 3, 8, 8)).abs().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_d04_fresh_networks_are_finite_and_follow_their_seed():
    x = image(1, 3, 16, 16)
    for seed in range(20):
        net = small("authors_code", seed, features=16, layers=5)
        assert torch.isfinite(net(x)).all()
        assert torch.equal(net(x), small("authors_code", seed, features=16, layers=5)(x))
    assert not torch.equal(net(x), small("authors_code", 0, features=16, layers=5)(x))


def test_d09_samples_do_not_mix_in_eval_mode_but_do_in_train_mode():
    net, x = small(temperature=1.0), image(3, 3, 12, 10)
    together = net(x)
    for i in range(3):
        assert close(together[i], net(x[i : i + 1])[0], 1e-6)
    assert close(net(x[[2, 0, 1]]), together[[2, 0, 1]], 1e-6)
    net.train()
    assert (net(x)[0] - net(x[:1])[0]).abs().max() > 1e-4


@pytest.mark.parametrize("form", ["loop", "grouped"])
def test_d10_memory_layout_makes_no_difference(form):
    net, x = small(), image(2, 3, 12, 10)
    for module in net.modules():
        if hasattr(module, "form"):
            module.form = form
    expected = net(x)
    assert close(net(x.contiguous(memory_format=torch.channels_last)), expected, 1e-6)
    wide = torch.zeros(2, 3, 24, 20)
    wide[..., ::2, ::2] = x
    assert close(net(wide[..., ::2, ::2]), expected, 1e-6)


def test_d13_receptive_field_is_35_with_equal_attention_and_the_whole_image_else():
    torch.manual_seed(0)
    net = DRAN("paper", features=8, out_activation=None).eval().double()
    x = image(1, 3, 43, 45).double()
    y = x.clone()
    y[0, :, 21, 22] += 0.5
    with torch.no_grad():
        live = (net(y) - net(x)).abs().amax((0, 1))
        still = (equal_attention(net)(y) - net(x)).abs().amax((0, 1))
    rows, columns = still.nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (21 - 17, 21 + 17, 22 - 17, 22 + 17)
    assert net.radius == 17
    assert live[0, 0] > 0


def test_d14_shift_is_exact_at_17_pixels_from_a_new_border():
    torch.manual_seed(0)
    net = equal_attention(DRAN("paper", features=8).eval()).double()
    x = image(1, 3, 60, 56).double()
    with torch.no_grad():
        crop, whole = net(x[..., 9:, 7:]), net(x)[..., 9:, 7:]
    assert (crop - whole)[..., 17:, 17:].abs().max() < 1e-14
    assert (crop - whole).abs().max() > 1e-9


def test_d15_no_symmetry_for_free():
    net, x = small(), image(1, 3, 12, 12)
    y = net(x)
    for changed, back in [
        (net(x.flip(3)), y.flip(3)),
        (net(torch.rot90(x, 1, (2, 3))), torch.rot90(y, 1, (2, 3))),
        (net(-x), -y),
        (net(x[:, [1, 0, 2]]), y[:, [1, 0, 2]]),
    ]:
        assert (changed - back).abs().max() > 1e-4


def test_d16_denoised_is_the_image_minus_the_noise():
    net, x = small(), image(1, 3, 9, 8)
    assert torch.equal(net.denoise(x), x - net(x))
    torch.nn.init.zeros_(net.tail.weight)
    assert torch.equal(net.denoise(x), x)


def test_d17_tanh_bounds_the_noise():
    net, free = small(), small(out_activation=None)
    for one in (net, free):
        one.tail.weight.data.mul_(1e4)
    x = image(1, 3, 9, 8)
    assert net(x).abs().max() <= 1
    assert free(x).abs().max() > 1
    assert close(net(x), torch.tanh(free(x)), 1e-6)


def test_d18_shared_is_an_independent_network_with_tied_weights():
    shared, tied = small("authors_code").double(), small("paper", 1).double()
    state = shared.state_dict()
    tied.load_state_dict(
        {key: state[key if not key.startswith("blocks") else "blocks.0" + key[8:]] for key in tied.state_dict()}
    )
    x, target = image(2, 3, 9, 8).double(), image(2, 3, 9, 8, seed=4).double()
    for net in (shared, tied):
        (net(x) - target).abs().mean().backward()
    assert torch.equal(shared(x), tied(x))
    for n, p in shared.blocks[0].named_parameters():
        total = sum(dict(block.named_parameters())[n].grad for block in tied.blocks)
        assert (p.grad - total).abs().max() <= 1e-6 * p.grad.abs().max() + 1e-15


@pytest.mark.parametrize(("options", "expected"), [({}, 3), ({"bn": "per_use"}, 1), ({"blocks": "independent"}, 1)])
def test_d19_batch_norm_counts_the_uses_of_a_shared_block(options, expected):
    net = small("authors_code", **options).train()
    net(image(2, 3, 8, 8))
    counts = {int(value) for key, value in net.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counts == {expected}


def test_d19_running_statistics_are_three_sequential_updates():
    net = small("authors_code").train()
    seen = []
    norm = net.blocks[0][0].norms[0]
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    net(image(2, 3, 8, 8))
    mean, var = torch.zeros(8), torch.ones(8)
    for x in seen:
        mean = 0.9 * mean + 0.1 * x.mean((0, 2, 3))
        var = 0.9 * var + 0.1 * x.transpose(0, 1).flatten(1).var(1, unbiased=True)
    assert len(seen) == 3
    assert close(norm.running_mean, mean, 1e-6)
    assert close(norm.running_var, var, 1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_d25_checkpoint_round_trip_keeps_weights_and_settings(preset, tmp_path):
    net = small(preset, kernels=3, in_channels=1, temperature=34, out_activation=None).train()
    net(image(2, 1, 8, 8))
    assert net.cool() == 31
    save_network(net.eval(), tmp_path / "net.safetensors")
    again = load_network(tmp_path / "net.safetensors")
    assert again.config == net.config
    assert (again.temperature, again.kernels, again.preset) == (31, 3, preset)
    assert torch.equal(again(image(1, 1, 9, 8)), net(image(1, 1, 9, 8)))


def test_d25_shared_weights_are_refused_by_an_independent_network_and_the_other_way():
    with pytest.raises(ValueError, match=r"1 distinct block\(s\), this network has 3 .*build it with blocks='shared'"):
        small("paper").load_state_dict(small("authors_code").state_dict())
    with pytest.raises(ValueError, match=r"3 distinct block\(s\), this network has 1 .*blocks='independent'"):
        small("authors_code").load_state_dict(small("paper").state_dict())


def test_a_file_of_something_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="holds no settings of a DRAN"):
        load_network(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "theirs"}, "preset is 'theirs': choose one of paper, authors_code"),
        ({"blocks": "tied"}, "blocks is 'tied'"),
        ({"bn": "none"}, "bn is 'none'"),
        ({"out_activation": "relu"}, "out_activation is 'relu': choose one of tanh, None"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DRAN(**options)


def constant_weights(preset: str) -> DRAN:
    net = DRAN(preset).eval()
    with torch.no_grad():
        net.head.weight.fill_(0.01)
        for block in net.blocks:
            for layer in block:
                for k in range(4):
                    layer.conv.weight[k], layer.conv.bias[k] = (k + 1) * 1e-4, 0.01 * k
                    layer.conv.excite.weight[k] = 8 * k
                layer.conv.squeeze.weight.fill_(0.1)
                layer.norms[0].bias.fill_(0.1)
        for gate in net.gates:
            for conv in (gate.feature, gate.mask):
                conv.weight.fill_(1e-3)
                conv.bias.fill_(0.1)
        for channel in range(3):
            net.tail.weight[channel] = (channel + 1) * 1e-3
    return net


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_f1_constant_weights_give_the_measured_statistics(preset):
    """Mean, biased deviation, least, greatest, entries [0, 0, 0, 0] and [0, 0, 8, 8] of every stage."""
    net, index = constant_weights(preset), torch.arange(16.0)
    x = torch.stack([0.5 * torch.sin(0.3 * index[:, None] + 0.2 * (c + 1) * index) for c in range(3)])[None]
    first = torch.relu(net.head(x))
    block = first
    for layer in net.blocks[0]:
        block = layer(block)
    noise = net(x)
    stages = {
        "input": (x, (-0.020562, 0.352622, -0.499962, 0.499787, 0, -0.378401)),
        "first": (first, (0.014716, 0.029089, 0, 0.121365, 0.019731, 0)),
        "dyn": (net.blocks[0][0].conv(first), (0.021516, 0.004177, 0.019281, 0.037157, 0.022664, 0.019281)),
        "gate": (net.gates[0](first), (0.057429, 0.009050, 0.052498, 0.086994, 0.070215, 0.052498)),
        "block": (block, (0.164584, 0.006154, 0.145558, 0.168289, 0.145563, 0.168267)),
        "noise": (noise, (0.317911, 0.132750, 0.077490, 0.508142, 0.078306, 0.183128)),
    }
    for name, (t, expected) in stages.items():
        found = (t.mean(), t.std(correction=0), t.min(), t.max(), t[0, 0, 0, 0], t[0, 0, 8, 8])
        assert [float(value) for value in found] == pytest.approx(expected, abs=2e-5), name
    assert net.attention(x)[0, 0].tolist() == pytest.approx([0.1360, 0.1938, 0.2763, 0.3939], abs=5e-5)
    assert noise.mean((0, 2, 3)).tolist() == pytest.approx([0.1667, 0.3236, 0.4634], abs=5e-5)
    assert noise[0, 2, 15, 0].item() == pytest.approx(0.228813, abs=2e-5)


@torch.no_grad()
def test_f3_size_of_the_output_at_birth():
    """Mean |F|: .014 with 16 features in eval mode, about twenty times that in train mode."""
    found = {True: [], False: []}
    for seed in range(5):
        net = small("authors_code", seed, features=16, layers=5)
        for mode in found:
            found[mode].append(net.train(mode)(image(2, 3, 24, 24)).abs().mean().item())
            net = small("authors_code", seed, features=16, layers=5)
    assert 0.004 < sum(found[False]) / 5 < 0.04
    assert 5 < sum(found[True]) / sum(found[False]) < 60


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("options", [{}, {"bn": "per_use"}])
@torch.no_grad()
def test_fused_network_gives_the_same_output_and_attention(preset, options):
    net = network(preset, features=16, layers=3, temperature=1.0, **options)
    for size in [(2, 2), (17, 33), (40, 44)]:
        x = image(2, 3, *size)
        fused = net.fuse()
        assert close(fused(x), net(x), 2e-6)
        assert close(fused.attention(x), net.attention(x), 2e-6)
    assert not list(fused.parameters()) or all(not p.requires_grad for p in fused.parameters())
    with pytest.raises(ValueError, match="fused network has its temperature folded in"):
        fused.cool()


@pytest.mark.parametrize("preset", PRESETS)
def test_network_and_its_fused_form_agree_with_the_plain_form(preset):
    pair = inference(2, 24, preset=preset)
    [plain], [ours] = pair.plain(), pair.ours()
    assert (plain - ours).abs().max() < 1e-5
    assert torch.isfinite(ours).all()
    assert plain.abs().max() > 1e-3


def test_training_step_agrees_with_the_plain_form():
    pair = training_step(2, 17)
    assert pair.difference() < 1e-8
    assert pair.ours()[0].item() == pytest.approx(pair.plain()[0].item(), abs=1e-4)


def test_plain_form_is_not_ours():
    """The reference shares no code of the dynamic layers with the network."""
    assert not any(type(module).__module__.startswith("medrepro") for module in PlainDRAN(small()).modules())
