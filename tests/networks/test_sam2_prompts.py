import pytest
import torch
import transformers
from torch import Tensor, nn

from semivox.networks import make_network
from semivox.networks.sam2_architecture import configuration
from semivox.networks.sam2_prompts import NO_PROMPT_LOGIT, Prompter, Prompts, class_logits

SIDE = 64


@pytest.fixture(scope="module")
def reference():
    """The library's own model for square images of 64 pixels, its two positional codes made equal."""
    torch.manual_seed(0)
    config = configuration("miniature")
    config.vision_config.backbone_feature_sizes = [[SIDE // stride] * 2 for stride in (4, 8, 16)]
    config.prompt_encoder_config.image_size = SIDE
    model = transformers.Sam2Model(config)
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(model.shared_image_embedding.positional_embedding)
    with torch.no_grad():
        model.no_memory_embedding.normal_()
    return model


def build(reference=None, **arguments) -> tuple[nn.Module, Prompter]:
    torch.manual_seed(1)
    network = make_network("sam2", 2, 3, 2, {"size": "miniature"})
    prompter = network.new_prompter(**arguments)
    if reference is not None:
        network.encoder.vision.load_state_dict(reference.vision_encoder.state_dict())
        prompter.take(reference)
    return network, prompter


def images(height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))


def some_boxes(count: int = 3) -> Tensor:
    corner = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(3)) * SIDE / 2
    return torch.cat([corner, corner + 20], 2)


VALID = torch.ones(2, 3, dtype=torch.bool)
POINTS = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(4)) * SIDE
KINDS = torch.tensor([1, 0]).expand(2, 3, 2)
MASK = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("prompts", "arguments"),
    [
        (Prompts(VALID, boxes=some_boxes()), {"input_boxes": some_boxes()}),
        (Prompts(VALID, points=POINTS, point_kinds=KINDS), {"input_points": POINTS, "input_labels": KINDS}),
        (
            Prompts(VALID, points=POINTS, point_kinds=KINDS, boxes=some_boxes()),
            {"input_points": POINTS, "input_labels": KINDS, "input_boxes": some_boxes()},
        ),
        (Prompts(VALID[:, :1], masks=MASK), {"input_masks": MASK}),
        (
            Prompts(VALID[:, :1], masks=MASK, boxes=some_boxes(1)),
            {"input_masks": MASK, "input_boxes": some_boxes(1)},
        ),
    ],
    ids=["boxes", "points", "points and boxes", "masks", "masks and boxes"],
)
@pytest.mark.parametrize("training", [True, False])
def test_masks_are_those_of_the_librarys_forward(reference, prompts, arguments, training):
    network, prompter = build(reference)
    network.train(training), prompter.train(training), reference.train(training)
    expected = reference(pixel_values=images(), multimask_output=False, **arguments)
    masks, score = prompter(network.encode(images()), prompts)
    full = nn.functional.interpolate(expected.pred_masks[:, :, 0], scale_factor=4, mode="bilinear")
    assert torch.allclose(masks, full, atol=1e-6)
    assert torch.allclose(score, expected.iou_scores[..., 0], atol=1e-6)


def test_training_and_evaluation_give_the_same_masks(reference):
    network, prompter = build(reference)
    features, prompts = network.encode(images()), Prompts(VALID, boxes=some_boxes())
    assert torch.equal(prompter.train()(features, prompts)[0], prompter.eval()(features, prompts)[0])


def test_a_model_from_scratch_has_one_positional_code():
    torch.manual_seed(0)
    whole = transformers.Sam2Model(configuration("miniature"))
    image, prompt = whole.shared_image_embedding, whole.prompt_encoder.shared_embedding
    assert not torch.equal(image.positional_embedding, prompt.positional_embedding), "the trap"
    _, prompter = build()
    codes = [name for name, _ in prompter.named_buffers() if name.endswith("positional_embedding")]
    assert codes == ["prompt_encoder.shared_embedding.positional_embedding"]
    prompter.take(whole)
    taken = prompter.prompt_encoder.shared_embedding.positional_embedding
    assert torch.equal(taken, prompt.positional_embedding)


@pytest.mark.parametrize(("height", "width"), [(50, 70), (33, 96), (20, 20)])
def test_masks_have_the_images_size_whatever_it_is(height, width):
    network, prompter = build()
    x = images(height, width)
    prompts = Prompts(torch.ones(2, 1, dtype=torch.bool), boxes=torch.tensor([[[2.0, 3, 15, 12]]] * 2))
    masks, score = prompter(network.encode(x), prompts)
    assert masks.shape == (2, 1, height, width)
    assert score.shape == (2, 1)


def test_boxes_of_a_slice_that_is_not_square_are_placed_in_both_axes(reference):
    """The code of a corner is the code that the image's map has there."""
    _, prompter = build(reference)
    grid = (2, 6)  # of a 32x96 image
    centre = torch.tensor([[[16 * 4 + 7.5, 16 * 1 + 7.5, 0.0, 0.0]]])  # of the cell in column 4, row 1
    none = torch.zeros(1, dtype=torch.long)
    corner = prompter._sparse(Prompts(VALID[:1, :1], boxes=centre), none, none, grid)[0, 0, 0]
    expected = prompter._positions(grid)[0, :, 1, 4] + prompter.prompt_encoder.point_embed.weight[2]
    assert torch.allclose(corner, expected, atol=1e-5)


def test_what_is_not_valid_is_constant_and_never_encoded():
    network, prompter = build(classes=3)
    features = network.encode(images())
    valid = torch.tensor([[True, False, True], [False, False, False]])
    boxes = torch.where(valid.unsqueeze(-1), some_boxes(), torch.nan)
    masks, score = prompter(features, Prompts(valid, boxes=boxes))
    assert (masks[~valid] == NO_PROMPT_LOGIT).all()
    assert (score[~valid] == 0).all()
    alone, _ = prompter(features, Prompts(VALID, boxes=some_boxes()))
    assert torch.allclose(masks[valid], alone[valid], atol=1e-6)
    masks[valid].square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in prompter.parameters())


def test_without_any_prompt_all_is_constant_and_nothing_is_computed():
    network, prompter = build()
    masks, _ = prompter(network.encode(images()), Prompts(~VALID, boxes=some_boxes()))
    assert (masks == NO_PROMPT_LOGIT).all()
    assert not masks.requires_grad


@pytest.mark.parametrize("arguments", [{"classes": 3}, {"classes": 3, "masks": True, "score": True}])
def test_the_gradient_reaches_every_trainable_weight_and_the_encoder(arguments):
    network, prompter = build(**arguments)
    guess = torch.randn(2, 3, SIDE, SIDE) if "masks" in arguments else None
    masks, score = prompter(network.encode(images()), Prompts(VALID, boxes=some_boxes(), masks=guess))
    weights = torch.linspace(-1, 1, masks.numel()).view_as(masks)
    ((masks * weights).sum() + (score.sum() if "score" in arguments else 0)).backward()
    without = {
        name for name, p in prompter.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    }
    assert without <= ({"prompt_encoder.no_mask_embed.weight"} if "masks" in arguments else set())
    assert network.encoder.vision.backbone.patch_embed.projection.weight.grad.abs().max() > 0


def test_class_tokens_tell_equal_boxes_apart():
    network, prompter = build(classes=2)
    same = torch.tensor([[[5.0, 5, 40, 40]] * 2] * 2)
    masks, _ = prompter(network.encode(images()), Prompts(VALID[:, :2], boxes=same))
    assert not torch.allclose(masks[:, 0], masks[:, 1])
    plain = build()[1]
    masks, _ = plain(network.encode(images()), Prompts(VALID[:, :2], boxes=same))
    assert torch.allclose(masks[:, 0], masks[:, 1], atol=1e-6)


def test_autocast_moves_no_box(reference):
    _, prompter = build(reference)
    everything = torch.arange(2).repeat_interleave(3), torch.arange(3).repeat(2)
    exact = prompter._sparse(Prompts(VALID, boxes=some_boxes()), *everything, (4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prompter._sparse(Prompts(VALID, boxes=some_boxes()), *everything, (4, 4)), exact)


def test_class_logits_of_the_worked_example():
    masks = torch.tensor([2.0, -1.0, NO_PROMPT_LOGIT], dtype=torch.float64).view(1, 3, 1, 1)
    logits = class_logits(masks)
    expected = torch.tensor([0.114195, 0.843790, 0.042010, 0.000005], dtype=torch.float64)
    assert torch.allclose(logits.softmax(1).flatten(), expected, atol=1e-6)
    cost = -logits.log_softmax(1).flatten()
    assert cost[1].item() == pytest.approx(0.169851, abs=1e-6)
    assert cost[0].item() == pytest.approx(2.169851, abs=1e-6)
