"""The registry of methods: a dictionary written by hand, name → where its class is.

`find_method` also takes `path/to/file.py:Class`, and names that other packages offer under the entry point
group `semivox.methods`. `NAME+ADDITION` is the method NAME with an addition put on.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semivox.errors import SettingError, unknown

if TYPE_CHECKING:
    from semivox.methods.method import Method

METHODS = {
    "supervised": "semivox.methods.supervised:Supervised",
    "entropy_minimisation": "semivox.methods.entropy_minimisation:EntropyMinimisation",
    "mean_teacher": "semivox.methods.mean_teacher:MeanTeacher",
    "uncertainty_aware_mean_teacher": "semivox.methods.uncertainty_aware_mean_teacher:UncertaintyAwareMeanTeacher",
    "cross_pseudo_supervision": "semivox.methods.cross_pseudo_supervision:CrossPseudoSupervision",
    "fixmatch": "semivox.methods.fixmatch:FixMatch",
    "interpolation_consistency": "semivox.methods.interpolation_consistency:InterpolationConsistency",
    "cross_consistency": "semivox.methods.cross_consistency:CrossConsistency",
    "deep_co_training": "semivox.methods.deep_co_training:DeepCoTraining",
    "deep_co_training_rotation": "semivox.methods.deep_co_training_rotation:DeepCoTrainingRotation",
    "cross_teaching": "semivox.methods.cross_teaching:CrossTeaching",
    "adversarial": "semivox.methods.adversarial:Adversarial",
    "shape_aware": "semivox.methods.shape_aware:ShapeAware",
    "smoothness_class_separation": "semivox.methods.smoothness_class_separation:SmoothnessClassSeparation",
    "perturbed_strict_mean_teacher": "semivox.methods.perturbed_strict_mean_teacher:PerturbedStrictMeanTeacher",
    "uncertainty_rectified_pyramid": "semivox.methods.uncertainty_rectified_pyramid:UncertaintyRectifiedPyramid",
    "dual_task_consistency": "semivox.methods.dual_task_consistency:DualTaskConsistency",
    "mutual_consistency": "semivox.methods.mutual_consistency:MutualConsistency",
    "mutual_consistency_plus": "semivox.methods.mutual_consistency:MutualConsistencyPlus",
    "bidirectional_copy_paste": "semivox.methods.bidirectional_copy_paste:BidirectionalCopyPaste",
    "students_discrepancy": "semivox.methods.students_discrepancy:StudentsDiscrepancy",
    "progressive_mean_teacher": "semivox.methods.progressive_mean_teacher:ProgressiveMeanTeacher",
    "causality": "semivox.methods.causality:Causality",
    "mutual_causality": "semivox.methods.causality:MutualCausality",
    "unimatch": "semivox.methods.unimatch:UniMatch",
    "unimatch_v2": "semivox.methods.unimatch_v2:UniMatchV2",
    "alternate_diverse_teaching": "semivox.methods.alternate_diverse_teaching:AlternateDiverseTeaching",
    "self_training": "semivox.methods.self_training:SelfTraining",
    "self_training_plus": "semivox.methods.self_training:SelfTrainingPlus",
    "dual_views": "semivox.methods.dual_views:DualViews",
    "multi_view_co_training": "semivox.methods.multi_view_co_training:MultiViewCoTraining",
    "transmedseg": "semivox.methods.transmedseg:TransMedSeg",
    "aggregating_decoupling": "semivox.methods.aggregating_decoupling:AggregatingDecoupling",
    "versemi": "semivox.methods.versemi:VerSemi",
    "dodnet": "semivox.methods.dodnet:DoDNet",
    "sam_assisted": "semivox.methods.sam_assisted:SamAssisted",
    "sss": "semivox.methods.sss:SSS",
}

ALIASES = {
    "labelled_only": "supervised",
    "em": "entropy_minimisation",
    "mt": "mean_teacher",
    "ua_mt": "uncertainty_aware_mean_teacher",
    "uamt": "uncertainty_aware_mean_teacher",
    "cps": "cross_pseudo_supervision",
    "ict": "interpolation_consistency",
    "cct": "cross_consistency",
    "dct": "deep_co_training",
    "dct_rotation": "deep_co_training_rotation",
    "ctct": "cross_teaching",
    "urpc": "uncertainty_rectified_pyramid",
    "dtc": "dual_task_consistency",
    "mc_net": "mutual_consistency",
    "mcnet": "mutual_consistency",
    "mc_net_plus": "mutual_consistency_plus",
    "bcp": "bidirectional_copy_paste",
    "sdcl": "students_discrepancy",
    "pmt": "progressive_mean_teacher",
    "caussl": "causality",
    "cps_caussl": "causality",
    "mc_caussl": "mutual_causality",
    "unimatch_v1": "unimatch",
    "ad_mt": "alternate_diverse_teaching",
    "admt": "alternate_diverse_teaching",
    "st": "self_training",
    "st_plus": "self_training_plus",
    "st++": "self_training_plus",
    "co_bionet": "dual_views",
    "cobionet": "dual_views",
    "semisam": "sam_assisted",
    "umct": "multi_view_co_training",
    "a_and_d": "aggregating_decoupling",
    "a&d": "aggregating_decoupling",
    "ad": "aggregating_decoupling",
    "genericssl": "aggregating_decoupling",
    "ver_semi": "versemi",
    "dan": "adversarial",
    "sassnet": "shape_aware",
    "ss_net": "smoothness_class_separation",
    "ssnet": "smoothness_class_separation",
    "ps_mt": "perturbed_strict_mean_teacher",
    "psmt": "perturbed_strict_mean_teacher",
}

ADDITIONS = {"transferable_augmentation": "semivox.methods.augmented:augmented"}
"""What can be put on a method: name → function, class of a method → class of the method with it."""

ADDITION_ALIASES = {"tsa": "transferable_augmentation"}


def method_names() -> list[str]:
    """Names of every method at hand, those of installed packages included."""
    offered = [point.name for point in importlib.metadata.entry_points(group="semivox.methods")]
    return [*METHODS, *(name for name in offered if name not in METHODS)]


def registered_name(name: str) -> str:
    """The name under which a method is listed, for one of its names; others (files, entry points) stay as they are."""
    normal = name.lower().replace("-", "_")
    normal = ALIASES.get(normal, normal)
    if normal in METHODS:
        return normal
    method, addition = split_addition(name)
    return f"{registered_name(method)}+{addition}" if addition else name


def split_addition(name: str) -> tuple[str, str]:
    """`method+addition` → the method's name and the addition's registered one; other names → themselves and ""."""
    method, _, addition = name.rpartition("+")
    normal = addition.lower().replace("-", "_")
    normal = ADDITION_ALIASES.get(normal, normal)
    return (method, normal) if method and normal in ADDITIONS else (name, "")


def find_method(name: str) -> "type[Method]":
    """The class of a method by registered name, alias, entry point, or `file.py:Class`; any of them `+ADDITION`.

    Raises SettingError for a name that is none of these.
    """
    listed = registered_name(name)
    if listed in METHODS:
        return _load(METHODS[listed])
    method, addition = split_addition(name)
    if addition:
        return _load(ADDITIONS[addition])(find_method(method))
    if ".py:" in name:
        return _from_file(name)
    for point in importlib.metadata.entry_points(group="semivox.methods"):
        if point.name == name:
            return point.load()
    method, _, addition = name.rpartition("+")
    if registered_name(method) in METHODS:
        raise unknown("addition", addition, [*ADDITIONS, *ADDITION_ALIASES])
    raise unknown("method", name, [*method_names(), *ALIASES])


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _from_file(name: str) -> "type[Method]":
    from semivox.methods.method import Method

    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise SettingError(f"--method {name}: there is no file '{path}'; give path/to/file.py:Class")
    specification = importlib.util.spec_from_file_location(f"semivox_user_method_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # so that pickling and dataclasses find the module by its name
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise SettingError(f"--method {name}: '{path}' does not import: {type(error).__name__}: {error}") from error
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Method) and value is not Method
    }
    if attribute not in classes:
        raise unknown(
            f"method class in {path}", attribute, classes or ["(no subclass of semivox.Method is in the file)"]
        )
    return classes[attribute]
