"""Faults put into the methods' own text, one at a time: a check of the tester or a test of the method must notice each.

That the methods as they are pass these checks and tests is what test_contract.py and the methods' own files show.
"""

import functools
import importlib
import inspect
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import pytest

from semivox.methods import METHODS, find_method
from semivox.testing import Candidate, Check
from semivox.testing.checks import (
    averages_follow_their_sources,
    gradient_reaches_every_trained_weight,
    hidden_labels_are_never_opened,
    losses_are_finite_and_never_negative,
    padding_never_counts,
)

INFERENCE = "    def inference_modules(self)"
AVERAGES_OFF = (INFERENCE, f"    def after_step(self, clock: Clock) -> None:\n        pass\n\n{INFERENCE}")
READ_HIDDEN_LABEL = (
    "__import__('semivox.data.image').data.image.read_label("
    "case.images[0].parents[1] / 'labelsTr' / f'{case.id}.nii.gz').array"
)


@dataclass(frozen=True)
class Mutation:
    """`old` (the `place`-th of its kind in the method's file) becomes `new`; `found_by` must then fail.

    found_by: a check, or the name of a test in the method's own file, parameters in brackets. function:
    `module:function` that has the fault, where the method's file is not the one; for tests only.
    """

    method: str
    fault: str
    old: str
    new: str
    found_by: Check | str
    place: int = 0
    function: str = ""

    @property
    def faulty_function(self) -> FunctionType:
        """What `function` names."""
        module, _, path = self.function.partition(":")
        return inspect.unwrap(functools.reduce(getattr, path.split("."), importlib.import_module(module)))

    def text(self) -> str:
        """The function or the method's file with the fault."""
        faulty = self.faulty_function if self.function else inspect.getmodule(find_method(self.method))
        source = textwrap.dedent(inspect.getsource(faulty))
        parts = source.split(self.old)
        assert len(parts) > self.place + 1, f"{self.method}: its file has no {self.place + 1} times {self.old!r}"
        before, after = self.old.join(parts[: self.place + 1]), self.old.join(parts[self.place + 1 :])
        return before + self.new + after


MUTATIONS = (
    Mutation(
        "supervised",
        "sign flipped",
        '"supervised": self',
        '"supervised": -self',
        losses_are_finite_and_never_negative,
    ),
    Mutation("supervised", "average off", *AVERAGES_OFF, averages_follow_their_sources),
    Mutation(
        "entropy_minimisation",
        "sign flipped",
        "weight * entropy",
        "weight * (1 - entropy)",
        "test_the_entropy_is_that_of_the_chosen_samples_without_padding[unlabelled-2]",
    ),
    Mutation(
        "entropy_minimisation",
        "padding counts",
        "normalised_entropy(unsupervised, unlabelled.valid)",
        "normalised_entropy(unsupervised)",
        padding_never_counts,
    ),
    Mutation("mean_teacher", "average off", *AVERAGES_OFF, averages_follow_their_sources),
    Mutation(
        "mean_teacher",
        "sign flipped",
        "weight * softmax_mse",
        "-weight * softmax_mse",
        "test_the_consistency_pulls_the_student_towards_its_target",
    ),
    Mutation(
        "mean_teacher",
        "padding counts",
        "softmax_mse(student, teacher, batch.unlabelled.valid)",
        "softmax_mse(student, teacher)",
        padding_never_counts,
    ),
    Mutation(
        "mean_teacher",
        "teacher is the student",
        "self.teacher(noisy)",
        "self.student(noisy)",
        "test_the_consistency_equals_a_slow_version[2]",
    ),
    Mutation(
        "uncertainty_aware_mean_teacher",
        "uncertain voxels count",
        "< threshold)",
        "> threshold)",
        "test_the_student_follows_one_pass_where_the_mean_of_the_others_is_certain[2]",
    ),
    Mutation(
        "uncertainty_aware_mean_teacher",
        "padding counts",
        "& batch.unlabelled.valid",
        "",
        padding_never_counts,
    ),
    Mutation("uncertainty_aware_mean_teacher", "average off", *AVERAGES_OFF, averages_follow_their_sources),
    Mutation(
        "cross_pseudo_supervision",
        "a network teaches itself",
        "hard_labels(logits_2, unlabelled.valid)",
        "hard_labels(logits_1, unlabelled.valid)",
        "test_the_cross_supervision_equals_a_slow_version[2]",
    ),
    Mutation(
        "cross_pseudo_supervision",
        "padding counts",
        ".masked_fill(~valid, IGNORE)",
        "",
        padding_never_counts,
    ),
    Mutation(
        "cross_pseudo_supervision",
        "networks begin alike",
        "self.second = problem.network()",
        "self.second = problem.network()\n    self.second.load_state_dict(self.first.state_dict())",
        "test_the_two_networks_begin_with_different_weights",
        function="semivox.methods.two_networks:TwoNetworks.build",
    ),
    Mutation(
        "fixmatch",
        "detach removed",
        "torch.no_grad()",
        "torch.enable_grad()",
        "test_labels_are_made_without_gradient_and_labelled_samples_pass_apart[2-D]",
    ),
    Mutation(
        "fixmatch",
        "threshold from below",
        "pseudo, kept = confident_label(probabilities, valid, self.settings.threshold)",
        "pseudo, kept = confident_label(probabilities, valid, self.settings.threshold)\n        kept = valid & ~kept",
        "test_the_student_learns_its_confident_labels_of_the_weak_view_on_the_strong_view[2-D]",
    ),
    Mutation(
        "fixmatch",
        "padding counts",
        "batch.unlabelled.views, batch.unlabelled.valid",
        "batch.unlabelled.views, batch.unlabelled.valid | True",
        padding_never_counts,
    ),
    Mutation(
        "interpolation_consistency",
        "padding counts",
        "first.valid & second.valid)",
        "None)",
        padding_never_counts,
    ),
    Mutation(
        "interpolation_consistency",
        "padding of one scan counts",
        "first.valid & second.valid",
        "first.valid",
        "test_the_student_learns_the_mixed_targets_of_the_mix_as_in_a_slow_version[2]",
    ),
    Mutation(
        "interpolation_consistency",
        "targets are mixed the other way round",
        "mixup(teacher[0::2], teacher[1::2], share)",
        "mixup(teacher[1::2], teacher[0::2], share)",
        "test_the_student_learns_the_mixed_targets_of_the_mix_as_in_a_slow_version[3]",
    ),
    Mutation("interpolation_consistency", "average off", *AVERAGES_OFF, averages_follow_their_sources),
    Mutation(
        "cross_consistency",
        "padding counts",
        "mean_softmax_mse(auxiliary, target, unlabelled.valid)",
        "mean_softmax_mse(auxiliary, target)",
        padding_never_counts,
    ),
    Mutation(
        "cross_consistency",
        "nothing is disturbed",
        "perturb(one, seeds, draw=draw)",
        "one",
        "test_every_auxiliary_decoder_is_held_against_the_main_one_as_in_a_slow_version[public script-2]",
    ),
    Mutation(
        "cross_consistency",
        "the main decoder is always detached",
        "main.detach() if self.settings.detach else main",
        "main.detach()",
        "test_whether_the_main_decoder_learns_from_the_others_is_a_setting[False]",
    ),
    Mutation(
        "cross_consistency",
        "the decoders of one kind are disturbed alike",
        "range(number * len(features), (number + 1) * len(features))",
        "range(len(features))",
        "test_a_kind_may_come_twice_with_other_draws",
    ),
    Mutation(
        "deep_co_training",
        "padding counts",
        "jensen_shannon(student, teacher, unlabelled.valid)",
        "jensen_shannon(student, teacher)",
        padding_never_counts,
    ),
    Mutation(
        "deep_co_training",
        "a network is fooled by its own scan",
        "self.first(adversarial_2)",
        "self.first(adversarial_1)",
        "test_each_network_sees_scans_that_fool_the_other_and_not_itself[first-second]",
    ),
    Mutation(
        "deep_co_training",
        "the step goes down the loss",
        "+ self.settings.perturbation * gradient",
        "- self.settings.perturbation * gradient",
        "test_an_adversarial_scan_is_one_step_away_and_fools_whom_it_is_made_for",
    ),
    Mutation(
        "deep_co_training",
        "the target has a gradient",
        "kl_divergence(logits_1.detach()",
        "kl_divergence(logits_1",
        "test_the_difference_trains_the_network_that_sees_the_adversarial_scan_alone[2-second-first]",
    ),
    Mutation(
        "deep_co_training_rotation",
        "padding counts",
        "turns.apply(unlabelled.valid)",
        "None",
        padding_never_counts,
    ),
    Mutation(
        "deep_co_training_rotation",
        "padding is not turned",
        "turns.apply(unlabelled.valid)",
        "unlabelled.valid",
        "test_both_views_are_held_against_each_other_as_in_a_slow_version[2]",
    ),
    Mutation(
        "deep_co_training_rotation",
        "the target is not turned",
        "expected = turns.apply(straight)",
        "expected = straight",
        "test_both_views_are_held_against_each_other_as_in_a_slow_version[3]",
    ),
    Mutation(
        "deep_co_training_rotation",
        "one half",
        "softmax_mse(turned, expected,",
        "softmax_mse(turned, expected.detach(),",
        "test_the_gradient_is_that_of_the_two_detached_halves",
    ),
    Mutation(
        "cross_teaching",
        "a network teaches itself",
        "confident_dice(logits_1, logits_2.argmax(1)",
        "confident_dice(logits_1, logits_1.argmax(1)",
        "test_each_learns_the_others_hard_labels_by_dice_alone_as_in_a_slow_version[2]",
    ),
    Mutation(
        "cross_teaching",
        "padding counts",
        "unlabelled.valid),",
        "unlabelled.valid | True),",
        "test_each_learns_the_others_hard_labels_by_dice_alone_as_in_a_slow_version[2]",
    ),
    Mutation(
        "cross_teaching",
        "two CNNs",
        "problem.network(TRANSFORMER, **transformer_settings(self.settings))",
        "problem.network()",
        "test_one_network_is_the_plans_and_the_other_attends[2]",
    ),
    Mutation(
        "uncertainty_rectified_pyramid",
        "padding counts",
        "pyramid_consistency(unsupervised, unlabelled.valid)",
        "pyramid_consistency(unsupervised)",
        padding_never_counts,
    ),
    Mutation(
        "uncertainty_rectified_pyramid",
        "nothing is disturbed",
        "disturbed = features if perturb is None else perturb(features, seeds)",
        "disturbed = features",
        "test_consistency_equals_a_slow_version[2]",
    ),
    Mutation(
        "uncertainty_rectified_pyramid",
        "coarse heads learn nothing",
        "head(disturbed)",
        "head(disturbed).detach() if head is not heads[-1] else head(disturbed)",
        gradient_reaches_every_trained_weight,
    ),
    Mutation(
        "dual_task_consistency",
        "padding counts",
        "dual_task_mse(distances, logits, valid,",
        "dual_task_mse(distances, logits, None,",
        padding_never_counts,
    ),
    Mutation(
        "dual_task_consistency",
        "one task detached",
        "dual_task_mse(distances,",
        "dual_task_mse(distances.detach(),",
        "test_the_consistency_teaches_both_heads[2-D]",
    ),
    Mutation(
        "mutual_consistency",
        "padding counts",
        "self.settings.temperature, valid,",
        "self.settings.temperature, None,",
        padding_never_counts,
    ),
    Mutation(
        "mutual_consistency",
        "detached always",
        "valid, self.settings.detach)",
        "valid, True)",
        "test_the_gradient_flows_through_a_sharpened_map_unless_it_is_detached[False]",
    ),
    Mutation(
        "mutual_consistency_plus",
        "the third decoder is forgotten",
        "*(branch(features) for branch in branches)]",
        "*(branch(features) for branch in branches[:1])]",
        gradient_reaches_every_trained_weight,
    ),
    Mutation(
        "bidirectional_copy_paste",
        "boxes swapped",
        'Region("supervised_centre", FIRST, box, a, 1.0)',
        'Region("supervised_centre", FIRST, ~box, a, 1.0)',
        "test_self_training_mixes_both_ways_as_in_a_slow_version[True-2]",
    ),
    Mutation(
        "bidirectional_copy_paste",
        "padding counts",
        "return label.masked_fill(~valid, IGNORE)",
        "return label",
        padding_never_counts,
    ),
    Mutation(
        "bidirectional_copy_paste",
        "average off after pretraining",
        "average.update()",
        "pass",
        "test_the_teacher_is_the_student_until_self_training_begins_and_then_follows_it[eval]",
    ),
    Mutation(
        "students_discrepancy",
        "the mean has the weights below too",
        "counted & (label != IGNORE), weight)",
        "(counted & (label != IGNORE)) * weight)",
        "test_both_students_learn_as_in_a_slow_version[2]",
        function="semivox.losses.discrepancy:label_mse",
    ),
    Mutation(
        "students_discrepancy",
        "weights of the regions swapped",
        "one.where * one.weight + other.where * other.weight",
        "one.where * other.weight + other.where * one.weight",
        "test_both_students_learn_as_in_a_slow_version[2]",
    ),
    Mutation(
        "students_discrepancy",
        "background counts where classes hide in it",
        "merged.masked_fill((merged == 0) & hides, IGNORE)",
        "merged",
        "test_where_a_task_hides_classes_its_background_corrects_nobody",
        function="semivox.losses.partial:certain_label",
    ),
    Mutation(
        "progressive_mean_teacher",
        "one student only",
        "student = (number + 1) % 2",
        "student = 0",
        gradient_reaches_every_trained_weight,
    ),
    Mutation(
        "progressive_mean_teacher",
        "padding counts",
        "self.settings.temperature, valid)",
        "self.settings.temperature)",
        padding_never_counts,
    ),
    Mutation(
        "progressive_mean_teacher",
        "the better student learns from the worse",
        "supervised.detach(), label) > dice_loss",
        "supervised.detach(), label) < dice_loss",
        "test_a_student_learns_from_its_teacher_and_from_the_better_student_as_in_a_slow_version[the worse student-2]",
    ),
    Mutation(
        "progressive_mean_teacher",
        "the other teacher moves",
        "self.second_teacher)[turn.student].update",
        "self.second_teacher)[1 - turn.student].update",
        "test_only_the_student_whose_turn_it_is_learns_and_its_teacher_follows[4-first-second]",
    ),
    Mutation(
        "causality",
        "no max phase",
        "if count:",
        "if False:",
        gradient_reaches_every_trained_weight,
    ),
    Mutation(
        "causality",
        "P is minimised",
        "1 - value for",
        "value for",
        "test_max_steps_raise_the_dependence_and_the_networks_lower_it",
    ),
    Mutation(
        "causality",
        "the others' weights are not fixed",
        "]).detach() for",
        "]) for",
        "test_a_dependence_teaches_its_own_network_alone_and_its_coefficients_are_taught_apart[causality]",
    ),
    Mutation(
        "mutual_causality",
        "the first decoder's weights are those of all",
        "[layer[number] for layer in layers]",
        "[layer[0] for layer in layers]",
        "test_a_decoder_is_told_from_both_others_over_the_convolutions_that_all_have[2]",
    ),
    Mutation(
        "mutual_causality",
        "padding counts",
        "settings.temperature, valid, settings.detach",
        "settings.temperature, None, settings.detach",
        padding_never_counts,
    ),
    Mutation(
        "unimatch",
        "labels are not cut with their image",
        "cutmix(each, neighbour, cut) for each in maps)",
        "each for each in maps)",
        "test_three_streams_learn_the_confident_labels_of_the_weak_view[dice-2]",
    ),
    Mutation(
        "unimatch",
        "features are whole",
        "channel_dropout(own, unlabelled.seeds, settings.feature_dropout, draw)",
        "own",
        "test_three_streams_learn_the_confident_labels_of_the_weak_view[dice-2]",
    ),
    Mutation(
        "unimatch",
        "detach removed",
        "torch.no_grad()",
        "torch.enable_grad()",
        "test_the_label_is_decoded_from_whole_features_without_gradient",
    ),
    Mutation(
        "unimatch_v2",
        "labels are not cut with their image",
        "[cutmix(each, neighbour, cut) for each in maps]",
        "list(maps)",
        "test_two_halved_views_learn_the_confident_labels_of_the_teacher[2]",
    ),
    Mutation("unimatch_v2", "average off", *AVERAGES_OFF, averages_follow_their_sources),
    Mutation(
        "alternate_diverse_teaching",
        "one teacher only",
        "self.active = 1 - self.active",
        "pass",
        averages_follow_their_sources,
    ),
    Mutation(
        "alternate_diverse_teaching",
        "both teachers move",
        "teacher.update(",
        "self.second_teacher.update(clock.step)\n        teacher.update(",
        "test_only_the_active_teacher_moves_and_turns_end",
    ),
    Mutation(
        "alternate_diverse_teaching",
        "padding counts",
        "kept = valid & (",
        "kept = (",
        padding_never_counts,
    ),
    Mutation(
        "self_training",
        "hidden labels are read",
        "return argmax(tools, case, lambda image: self.predict(image, case.task))",
        f"return {READ_HIDDEN_LABEL}",
        hidden_labels_are_never_opened,
    ),
    Mutation(
        "self_training",
        "what is cut out counts",
        "pseudo.masked_fill(box, IGNORE)",
        "pseudo",
        "test_a_cut_out_box_shows_nothing_and_teaches_nothing[2]",
    ),
    Mutation(
        "self_training", "average off", "self.average.update(clock.stage_step)", "pass", averages_follow_their_sources
    ),
    Mutation(
        "self_training_plus",
        "the unreliable half first",
        "reverse=True",
        "reverse=False",
        "test_the_reliable_half_keeps_its_labels_and_the_rest_gets_new_ones",
    ),
    Mutation(
        "transmedseg",
        "average off",
        "    def optimisers(self)",
        "    def after_step(self, clock: Clock) -> None:\n        pass\n\n    def optimisers(self)",
        averages_follow_their_sources,
    ),
    Mutation(
        "transmedseg",
        "sign of the clustering flipped",
        'terms["clustering"] = self',
        'terms["clustering"] = -self',
        losses_are_finite_and_never_negative,
    ),
    Mutation(
        "transmedseg",
        "nothing is aligned",
        "self.graph(gave) if self.training else gave",
        "gave",
        "test_the_clustering_teaches_its_own_layers_and_the_encoder",
    ),
    Mutation(
        "transmedseg",
        "samples of a batch mix in prediction",
        "self.graph(gave) if self.training else gave",
        "self.graph(gave)",
        "test_a_sample_is_predicted_by_itself_whatever_is_beside_it",
    ),
    Mutation(
        "transmedseg",
        "sign of the shift flipped",
        "end.mean - start.mean",
        "start.mean - end.mean",
        "test_the_augmentation_equals_a_slow_version_over_two_steps[2]",
        function="semivox.methods.transferable_augmentation:TransferableAugmentation.term",
    ),
    Mutation(
        "transmedseg",
        "half of the covariance is not taken",
        "0.5 * spread",
        "spread",
        "test_the_augmentation_equals_a_slow_version_over_two_steps[2]",
        function="semivox.losses.transferable:augmentation_table",
    ),
    Mutation(
        "transmedseg",
        "labels of the other region leak",
        "certain_label(stream.label, stream.known), weight)",
        "certain_label(stream.label, stream.known), None)",
        "test_the_augmentation_needs_no_label_of_an_unlabelled_scan_and_no_truth_elsewhere",
        function="semivox.methods.transferable_augmentation:TransferableAugmentation.hear",
    ),
    Mutation(
        "transmedseg",
        "the source is not updated",
        "self.source.update(self.source.moments(self.labelled, batch.step), self._decay)",
        "",
        "test_the_augmentation_equals_a_slow_version_over_two_steps[2]",
        function="semivox.methods.transferable_augmentation:TransferableAugmentation.term",
    ),
    Mutation(
        "transmedseg",
        "the target is not updated",
        "self.target.update(self.target.moments(parts, self.batch.step), self._decay)",
        "",
        "test_the_augmentation_equals_a_slow_version_over_two_steps[2]",
        function="semivox.methods.transferable_augmentation:TransferableAugmentation._use_teachers",
    ),
    Mutation(
        "transmedseg",
        "the strength does not ramp",
        "clock.stage_progress if",
        "1.0 if",
        "test_the_augmentation_equals_a_slow_version_over_two_steps[2]",
        function="semivox.methods.transferable_augmentation:TransferableAugmentation.term",
    ),
    Mutation("aggregating_decoupling", "average off", *AVERAGES_OFF, averages_follow_their_sources),
    Mutation(
        "aggregating_decoupling",
        "padding counts",
        "scores.argmax(1).masked_fill(~unlabelled.valid, IGNORE)",
        "scores.argmax(1)",
        padding_never_counts,
    ),
    Mutation(
        "aggregating_decoupling",
        "the diffusion has no say",
        "fused_scores(gumbel_softmax(sampled, noise, settings.temperature), psi)",
        "psi.softmax(1)",
        "test_the_unlabelled_term_equals_a_slow_version[published-2]",
    ),
    Mutation(
        "aggregating_decoupling",
        "classes weigh alike",
        "dice_ce(psi, label, weights, known)",
        "dice_ce(psi, label, known=known)",
        "test_the_supervised_terms_equal_slow_versions[2]",
    ),
    Mutation(
        "aggregating_decoupling",
        "decoders are not mixed",
        "self.mix_decoders()",
        "pass",
        "test_a_step_mixes_before_the_average_follows",
    ),
    Mutation(
        "aggregating_decoupling",
        "pseudo-labels are made with gradient",
        "@torch.no_grad()\n    def pseudo_scores",
        "@torch.enable_grad()\n    def pseudo_scores",
        "test_a_step_makes_the_encoder_passes_of_its_demand",
    ),
    Mutation(
        "sss",
        "average off",
        "    def predict(self, image",
        "    def after_step(self, clock: Clock) -> None:\n        pass\n\n    def predict(self, image",
        averages_follow_their_sources,
    ),
    Mutation(
        "sss",
        "padding counts",
        "for each in maps)",
        "for each in (maps[0], torch.ones_like(maps[1]), torch.ones_like(maps[2])))",
        padding_never_counts,
    ),
    Mutation("dodnet", "average off", *AVERAGES_OFF, averages_follow_their_sources),
    Mutation(
        "versemi",
        "padding counts",
        "synthetic, whole, valid.unsqueeze(1))",
        "synthetic, whole)",
        padding_never_counts,
    ),
    Mutation(
        "versemi",
        "the box is the whole mix",
        "counted * boxes.unsqueeze(1)",
        "counted",
        "test_the_second_stage_equals_a_slow_version[released-2-binary]",
    ),
    Mutation(
        "versemi",
        "always the boxes of all samples",
        "if self.settings.released_box else box",
        "if True else box",
        "test_the_second_stage_equals_a_slow_version[released-2-binary]",
    ),
    Mutation(
        "versemi",
        "prompts of other tasks learn",
        "counted & over_space(own, counted))",
        "counted)",
        "test_the_first_stage_equals_a_slow_version[2-several organs]",
        function="semivox.methods.dodnet:DoDNet.supervised",
    ),
    Mutation(
        "versemi",
        "a's organs count in b's term",
        "numbers, _ = own_prompts(knowns.any(0))",
        "numbers, _ = own_prompts(knowns[0])",
        "test_the_first_stage_equals_a_slow_version[2-binary]",
    ),
    Mutation(
        "versemi",
        "the aggregate is always detached",
        "if self.settings.detach_aggregate else whole",
        "if True else whole",
        "test_the_consistency_reaches_the_organs_prompts_unless_they_are_detached[False]",
    ),
    Mutation(
        "adversarial",
        "a scan that is nearly all padding counts as much as others",
        "float().mean(1)",
        "float().amax(1)",
        "test_the_unlabelled_probabilities_are_to_be_taken_for_labelled_ones[2]",
        function="semivox.methods.adversary:share",
    ),
    Mutation(
        "adversarial",
        "unlabelled scans are to look unlabelled",
        "origins(LABELLED, stream)",
        "origins(UNLABELLED, stream)",
        "test_the_unlabelled_probabilities_are_to_be_taken_for_labelled_ones[2]",
        function="semivox.methods.adversary:Adversary.suspicion",
    ),
    Mutation(
        "adversarial",
        "the segmenter gets no gradient of the adversary",
        "suspicion(full_precision(student)",
        "suspicion(full_precision(student.detach())",
        "test_the_adversary_teaches_the_segmenter_through_the_unlabelled_scans_alone",
    ),
    Mutation(
        "shape_aware",
        "the distances are not bounded",
        "full_precision(self.distance_head(penultimate)).tanh()",
        "full_precision(self.distance_head(penultimate))",
        "test_the_unlabelled_shapes_are_to_be_taken_for_labelled_ones[2-D]",
    ),
    Mutation(
        "shape_aware",
        "no optimiser has the distance head",
        '"main", (self.network, self.distance_head))',
        '"main", (self.network,))',
        gradient_reaches_every_trained_weight,
    ),
    Mutation(
        "shape_aware",
        "the discriminator learns from scans alone",
        "self.adversary.confusion(distances, batch)",
        "self.adversary.confusion(0 * distances, batch)",
        gradient_reaches_every_trained_weight,
    ),
    Mutation(
        "smoothness_class_separation",
        "running statistics follow the changed images",
        "with running_statistics_kept(self.network):",
        "if True:",
        "test_running_statistics_follow_only_the_pass_of_the_images_as_they_are",
    ),
    Mutation(
        "smoothness_class_separation",
        "the memory keeps wrong predictions too",
        "right = known.masked_fill(supervised.argmax(1) != known, IGNORE)",
        "right = known",
        "test_the_memory_keeps_projections_of_rightly_predicted_voxels_by_their_rank[highest]",
    ),
    Mutation(
        "smoothness_class_separation",
        "the lowest are kept",
        'self.settings.kept == "highest"',
        'self.settings.kept != "highest"',
        "test_the_memory_keeps_projections_of_rightly_predicted_voxels_by_their_rank[highest]",
    ),
    Mutation(
        "smoothness_class_separation",
        "padding is changed and compared",
        "smoothness_dice(disturbed, target, valid)",
        "smoothness_dice(disturbed, target)",
        padding_never_counts,
    ),
    Mutation(
        "perturbed_strict_mean_teacher",
        "both teachers move at once",
        "[turn % 2].update()",
        "[turn % 2].update()\n            self.second_teacher.update()",
        "test_teachers_move_in_turns_and_rest_in_the_warm_up",
    ),
    Mutation(
        "perturbed_strict_mean_teacher",
        "the second teacher never moves",
        "[turn % 2].update()",
        "[0].update()",
        averages_follow_their_sources,
    ),
    Mutation(
        "perturbed_strict_mean_teacher",
        "the fine features are changed",
        "self.student.decode([*features[:-1], changed])",
        "self.student.decode([features[0] + 0.1, *features[1:-1], changed])",
        "test_the_students_coarsest_features_are_changed_by_epsilon_in_both_streams[2]",
    ),
    Mutation(
        "perturbed_strict_mean_teacher",
        "the labels are not mixed",
        "for each in (strong, stream.valid, teachers))",
        "for each in (strong, stream.valid, teachers))\n        teachers = self.mean_logits(weak)",
        "test_confident_labels_of_both_teachers_count_by_their_confidence[2]",
    ),
    Mutation(
        "multi_view_co_training",
        "passes for the variance move running statistics",
        "with running_statistics_kept(network):",
        "with torch.no_grad():",
        "test_dropout_passes_leave_no_trace_in_batch_norm",
    ),
    Mutation(
        "multi_view_co_training",
        "predictions are not turned back",
        "seen_back(full_precision(average(seen_from(image, view))).softmax(1), view)",
        "full_precision(average(seen_from(image, view))).softmax(1)",
        "test_what_predicts_is_the_mean_of_all_views_turned_back[2]",
    ),
    Mutation(
        "dual_views",
        "each critic vouches for its own network",
        "vouched_for(said_2, said_1, settings.threshold",
        "vouched_for(said_1, said_2, settings.threshold",
        "test_the_terms_equal_a_slow_version[2]",
    ),
    Mutation(
        "dual_views",
        "critics do not learn what true masks are",
        "taken_for_true(critic(masks), voxels)",
        "taken_for_made(critic(masks), voxels)",
        "test_the_terms_equal_a_slow_version[2]",
    ),
    Mutation(
        "sam_assisted",
        "the weight grows",
        "sigmoid_ramp(1 - clock.stage_progress",
        "sigmoid_ramp(clock.stage_progress",
        "test_the_term_fades_while_the_mean_teachers_grows",
    ),
    Mutation(
        "sam_assisted",
        "padding counts",
        ".squeeze(1) * stream.valid",
        ".squeeze(1)",
        "test_the_term_equals_a_slow_version[none-2]",
    ),
)


class Outcomes:
    """Notes how tests end."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.found.append(f"{report.when} {report.outcome}")


def test_every_method_has_a_mutation():
    assert {mutation.method for mutation in MUTATIONS} == set(METHODS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.method}: {mutation.fault}")
def test_a_fault_in_a_method_is_found(mutation: Mutation, tmp_path: Path, monkeypatch, two_processes):
    name = f"mutated_{MUTATIONS.index(mutation)}"
    place = find_method(mutation.method).__module__.rpartition(".")[2]
    if mutation.function:
        function = mutation.faulty_function
        namespace = dict(vars(inspect.getmodule(function)))
        exec(mutation.text(), namespace)
        # In place, so that whoever has imported the function has its fault.
        monkeypatch.setattr(function, "__code__", inspect.unwrap(namespace[function.__name__]).__code__)
    else:
        file = tmp_path / f"{name}.py"
        file.write_text(mutation.text(), encoding="utf-8")
        kind = find_method(mutation.method).__name__
        find_method(f"{file}:{kind}")  # the text with the fault is still a method
        if callable(mutation.found_by):
            with pytest.raises(AssertionError):
                mutation.found_by(Candidate(f"{file}:{kind}", processes=two_processes))
            return
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(METHODS, mutation.method, f"{name}:{kind}")
    own = Path(__file__).with_name(f"test_{place}.py")
    outcomes = Outcomes()
    pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"{own}::{mutation.found_by}"], plugins=[outcomes])
    assert outcomes.found == ["call failed"], f"{own.name} has no such test, or it notices nothing"
