"""The sizes of SAM-2 (Ravi et al., ICLR 2025), as configurations of `transformers` (the extra `sam`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

from semivox.errors import missing_extra

Size = Literal["miniature", "tiny", "small", "base_plus", "large"]

STRIDE = 32
"""Sizes of images that the encoder takes are multiples of it."""

MEMORY_WIDTH = 64
"""Channels of a memory, of every size."""


@dataclass(frozen=True)
class Architecture:
    """What differs between the sizes."""

    widths: tuple[int, int, int, int]
    """Channels per stage, at strides 4, 8, 16, 32."""
    blocks: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]
    """Blocks that attend to the whole image; never the first one of a stage."""
    windows: tuple[int, int, int, int]
    background: tuple[int, int] = (7, 7)
    """Size of the table of positions, interpolated to the image."""
    width: int = 256
    """Channels of the three feature maps, and of the prompts."""
    mask_decoder: tuple[int, int] = (2048, 8)
    """Hidden units and attention heads of the mask decoder's transformer; as many hidden units has memory attention."""
    memory_layers: int = 4
    """Layers of memory attention."""


ARCHITECTURES: dict[str, Architecture] = {
    "miniature": Architecture(
        (16, 32, 64, 128),
        (1, 1, 2, 1),
        (1, 2, 4, 8),
        (3,),
        (8, 4, 4, 4),
        width=32,
        mask_decoder=(64, 4),
        memory_layers=2,
    ),
    "tiny": Architecture((96, 192, 384, 768), (1, 2, 7, 2), (1, 2, 4, 8), (5, 7, 9), (8, 4, 14, 7)),
    "small": Architecture((96, 192, 384, 768), (1, 2, 11, 2), (1, 2, 4, 8), (7, 10, 13), (8, 4, 14, 7)),
    "base_plus": Architecture(
        (112, 224, 448, 896), (2, 3, 16, 3), (2, 4, 8, 16), (12, 16, 20), (8, 4, 14, 7), (14, 14)
    ),
    "large": Architecture((144, 288, 576, 1152), (2, 6, 36, 4), (2, 4, 8, 16), (23, 33, 43), (8, 4, 16, 8)),
}
assert tuple(ARCHITECTURES) == get_args(Size)


def library() -> ModuleType:
    """The package `transformers`; SettingError without the extra."""
    try:
        import transformers
    except ImportError:
        raise missing_extra("transformers", "sam") from None
    return transformers


def map_size(image: Sequence[int]) -> tuple[int, ...]:
    """The size (h, w) of the coarsest map, at stride 16, of images (H, W)."""
    return tuple(2 * -(-length // STRIDE) for length in image)


def image_encoder(size: Size) -> Any:
    """A freshly initialised image encoder; its `fpn_hidden_states` are maps of strides 4, 8, 16."""
    return library().Sam2VisionModel(configuration(size).vision_config)


def prompting(size: Size) -> Any:
    """A freshly initialised model, of which all but the image encoder, which is the smallest, is of `size`."""
    return library().Sam2Model(without_image_encoder(size))


def remembering(size: Size) -> Any:
    """A freshly initialised model of videos, of which memory attention and memory encoder are of `size`.

    Nothing here has dropout, which would draw from torch's own generator. Whatever follows the frames of a video beyond
    the memories, object pointers, needs widths above 64; memories do not.
    """
    transformers = library()
    image, it = without_image_encoder(size), ARCHITECTURES[size]
    config = transformers.Sam2VideoConfig(
        vision_config=image.vision_config,
        prompt_encoder_config=image.prompt_encoder_config,
        mask_decoder_config=image.mask_decoder_config,
        memory_attention_hidden_size=it.width,
        memory_attention_num_layers=it.memory_layers,
        memory_attention_feed_forward_hidden_size=it.mask_decoder[0],
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_encoder_hidden_size=it.width,
        memory_encoder_output_channels=MEMORY_WIDTH,
        mask_downsampler_embed_dim=it.width,
        memory_fuser_embed_dim=it.width,
        memory_fuser_intermediate_dim=4 * it.width,
    )
    return transformers.Sam2VideoModel(config)


def without_image_encoder(size: Size) -> Any:
    """`configuration`, with the smallest image encoder in place of its own."""
    config = configuration(size)
    config.vision_config.backbone_config = configuration("miniature").vision_config.backbone_config
    config.vision_config.backbone_channel_list = list(reversed(ARCHITECTURES["miniature"].widths))
    return config


def configuration(size: Size) -> Any:
    """The configuration of the image model. Nothing in its weights depends on the size of the image."""
    transformers = library()
    it = ARCHITECTURES[size]
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=it.widths[0],
        num_attention_heads=it.heads[0],
        blocks_per_stage=list(it.blocks),
        embed_dim_per_stage=list(it.widths),
        num_attention_heads_per_stage=list(it.heads),
        window_size_per_stage=list(it.windows),
        global_attention_blocks=list(it.global_blocks),
        window_positional_embedding_background_size=list(it.background),
    )
    hidden, heads = it.mask_decoder
    return transformers.Sam2Config(
        vision_config=transformers.Sam2VisionConfig(
            backbone_config=backbone, backbone_channel_list=list(reversed(it.widths)), fpn_hidden_size=it.width
        ),
        prompt_encoder_config=transformers.Sam2PromptEncoderConfig(hidden_size=it.width),
        mask_decoder_config=transformers.Sam2MaskDecoderConfig(
            hidden_size=it.width,
            mlp_dim=hidden,
            num_attention_heads=heads,
            iou_head_hidden_dim=it.width,
            # True picks another mask where the single one is unstable, in evaluation only: training and evaluation
            # would differ.
            dynamic_multimask_via_stability=False,
        ),
    )


def size_of(config: Any) -> str | None:
    """The size that a checkpoint's configuration has; None where it is none of them."""
    backbone = config.vision_config.backbone_config
    found = tuple(backbone.embed_dim_per_stage), tuple(backbone.blocks_per_stage)
    return next((size for size, it in ARCHITECTURES.items() if (it.widths, it.blocks) == found), None)
