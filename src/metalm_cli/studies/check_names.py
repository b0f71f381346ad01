"""Check of the names in a study: those of arms, stages, models, evaluations and scales that its parts refer to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from metalm_cli.common.registry import did_you_mean
from metalm_cli.config.recipe_errors import RecipeProblem
from metalm_cli.config.yaml_nodes import YamlNode
from metalm_cli.studies.expand import REFERENCE, evaluations_of, stages_of_arms, texts
from metalm_cli.studies.schema import ARM_MARK, CHANCE, EVERY, RECORDED, StudyFile

TRAINING_COMMANDS = ("pretrain", "finetune", "instruct")


def name_problems(file: StudyFile, node: YamlNode) -> list[RecipeProblem]:
    """Return the problems of the names in a study, each with its line."""
    problems = [
        *_repeated_names(file, node),
        *_scales(file, node),
        *_stages(file, node),
        *_evaluations(file, node),
        *_tables_of_scales(file, node),
    ]
    # cycles and claims can be judged only if the names are right
    return problems or [*_order(file, node), *_claims(file, node)]


def _unknown(key: str, name: str, kind: str, known: Collection[str], node: YamlNode | None) -> RecipeProblem:
    names = list(known)
    remedy = did_you_mean(name, names) or (f"choose one of {', '.join(names)}" if names else f"add the {kind}")
    return RecipeProblem(key, f"no {kind} is named {name}", remedy, node.where if node is not None else "")


def _entry(node: YamlNode, part: str, index: int) -> YamlNode:
    entry: YamlNode = node.value[part].value[index]
    return entry


def _repeated_names(file: StudyFile, node: YamlNode) -> Iterator[RecipeProblem]:
    places: dict[str, str] = {}
    for part in ("stages", "checkpoints", "evaluations"):
        for index, entry in enumerate(getattr(file, part)):
            where = _entry(node, part, index).where
            names = [entry.name.replace(ARM_MARK, arm) for arm in getattr(entry, "arms", None) or [""]]
            if used := [name for name in names if name in places]:
                why = f"{used[0]} is also on line {places[used[0]].rpartition(':')[2]}"
                yield RecipeProblem(f"{part}.{index}.name", why, "choose another name", where)
            places |= dict.fromkeys(names, where)
    for part in ("arms", "claims"):
        names = [entry.name for entry in getattr(file, part)]
        for index, name in enumerate(names):
            if name in names[:index]:
                where = _entry(node, part, index).where
                yield RecipeProblem(f"{part}.{index}.name", f"{name} is listed twice", "choose another name", where)


def _scales(file: StudyFile, node: YamlNode) -> Iterator[RecipeProblem]:
    for part in ("arms", "stages", "evaluations", "claims"):
        for index, entry in enumerate(getattr(file, part)):
            for scale in entry.scales or ():
                if scale not in file.scales:
                    place = _entry(node, part, index).value["scales"]
                    yield _unknown(f"{part}.{index}.scales", scale, "scale", file.scales, place)


def _stages(file: StudyFile, node: YamlNode) -> Iterator[RecipeProblem]:
    arms = [arm.name for arm in file.arms]
    for index, stage in enumerate(file.stages):
        entry, key = _entry(node, "stages", index), f"stages.{index}"
        for arm in stage.arms or ():
            if arm not in arms:
                yield _unknown(f"{key}.arms", arm, "arm", arms, entry.value["arms"])
        if (ARM_MARK in stage.name) != (stage.arms is not None):
            remedy = "write {arm} in the name" if stage.arms else "list its arms, or remove {arm} from the name"
            yield RecipeProblem(
                f"{key}.name", "a stage has {arm} in its name if and only if it has arms", remedy, entry.where
            )
        command = stage.command.split()
        if len(command) < 2 or command[0] not in TRAINING_COMMANDS:
            remedy = f"begin with {', '.join(TRAINING_COMMANDS)} and a recipe"
            yield RecipeProblem(f"{key}.command", "not a training command", remedy, entry.value["command"].where)
        if stage.keeps_decoder and stage.base is None:
            yield RecipeProblem(
                f"{key}.keeps_decoder",
                "the stage has no base to compare with",
                "set base",
                entry.value["keeps_decoder"].where,
            )


def _evaluations(file: StudyFile, node: YamlNode) -> Iterator[RecipeProblem]:
    names = _all_stage_names(file)
    known = [*names, *(stage.name for stage in file.stages), *(checkpoint.name for checkpoint in file.checkpoints)]
    for index, evaluation in enumerate(file.evaluations):
        place = _entry(node, "evaluations", index).value["models"]
        for model in evaluation.models:
            if model not in known:
                yield _unknown(f"evaluations.{index}.models", model, "stage or checkpoint", known, place)


def _tables_of_scales(file: StudyFile, node: YamlNode) -> Iterator[RecipeProblem]:
    """Yield the unknown keys of the tables by stage, group or evaluation."""
    evaluations = [evaluation.name for evaluation in file.evaluations]
    groups = dict.fromkeys(
        name
        for scale in file.scales
        for stage in stages_of_arms(file, scale)
        for name in (stage.name, stage.stage.name, stage.group)
    )
    for scale_name, scale in file.scales.items():
        tables = (
            ("commands", scale.commands, list(groups)),
            ("positions", scale.positions, list(groups)),
            ("docked_outputs", scale.docked_outputs, list(groups)),
            ("overrides", scale.overrides, [EVERY, *groups]),
            ("options", scale.options, [EVERY, *evaluations]),
            ("seconds", scale.seconds, [*groups, *evaluations, "report"]),
        )
        for key, table, known in tables:
            for name in table:
                if name not in known:
                    place = node.value["scales"].value[scale_name].value[key].value[name]
                    yield _unknown(f"scales.{scale_name}.{key}.{name}", name, "stage or evaluation", known, place)


def _order(file: StudyFile, node: YamlNode) -> Iterator[RecipeProblem]:
    """Yield the references of stages to stages that do not exist, that a scale leaves out, or that need them."""
    all_names = _all_stage_names(file)
    reported: set[tuple[str, str]] = set()
    for scale_name, scale in file.scales.items():
        stages = {stage.name: stage for stage in stages_of_arms(file, scale_name)}
        requires = {name: stage.requires(scale) for name, stage in stages.items()}
        for name, needed in requires.items():
            index = file.stages.index(stages[name].stage)
            for other in needed:
                if other in stages or (name, other) in reported:
                    continue
                reported.add((name, other))
                place = _place_of_reference(_entry(node, "stages", index), other)
                if other in all_names:
                    yield RecipeProblem(
                        f"stages.{index}",
                        f"{name} uses the stage {other}, which the scale {scale_name} leaves out",
                        f"add the stage to the scale, or leave {name} out of it",
                        place.where,
                    )
                else:
                    yield _unknown(f"stages.{index}", other, "stage", all_names, place)
        cycle = find_cycle(requires)
        if cycle and ("", cycle[0]) not in reported:
            reported.add(("", cycle[0]))
            index = file.stages.index(stages[cycle[0]].stage)
            yield RecipeProblem(
                f"stages.{index}",
                f"stages need each other: {' -> '.join(cycle)}",
                "remove a base or a reference",
                _entry(node, "stages", index).where,
            )


def _place_of_reference(entry: YamlNode, name: str) -> YamlNode:
    """Return the value of a stage that refers to another stage; the stage itself if the arm or the scale does."""
    for key in ("base", "overrides"):
        inner = entry.value.get(key)
        if inner is None:
            continue
        if key == "base" and inner.value == name:
            return inner
        for value in inner.value.values() if isinstance(inner.value, dict) else ():
            if any(name in REFERENCE.findall(text) for text in texts(value.plain())):
                place: YamlNode = value
                return place
    return entry


def find_cycle(requires: dict[str, Sequence[str]] | dict[str, list[str]]) -> list[str]:
    """Return the names of a cycle, the first one again at its end; empty if there is none.

    >>> find_cycle({"a": ["b"], "b": ["c"], "c": ["b"]}), find_cycle({"a": ["b"], "b": []})
    (['b', 'c', 'b'], [])
    """
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in finished:
            return []
        for other in requires.get(name, ()):
            cycle = visit(other, [*path, name])
            if cycle:
                return cycle
        finished.add(name)
        return []

    return next((cycle for name in requires if (cycle := visit(name, []))), [])


def _claims(file: StudyFile, node: YamlNode) -> Iterator[RecipeProblem]:
    """Yield the claims about unknown evaluations or models."""
    models: dict[str, list[str]] = {evaluation.name: [] for evaluation in file.evaluations}
    for scale in file.scales:
        for evaluation, names in evaluations_of(file, scale):
            models[evaluation.name] += names
    for index, claim in enumerate(file.claims):
        entry, key = _entry(node, "claims", index).value, f"claims.{index}"
        places = [("evaluation", claim.evaluation), ("second_evaluation", claim.second_evaluation or claim.evaluation)]
        unknown = [(place, name) for place, name in places if name not in models and place in entry]
        for place, name in unknown:
            yield _unknown(f"{key}.{place}", name, "evaluation", models, entry[place])
        if unknown:
            continue
        for (_, place), side, name in zip(places, ("first", "second"), (claim.first, claim.second), strict=True):
            known = list(dict.fromkeys(models[place]))
            if name not in known and not (side == "second" and name in (CHANCE, RECORDED)):
                yield _unknown(
                    f"{key}.{side}",
                    name,
                    f"model of the evaluation {place}",
                    [*known, *([CHANCE, RECORDED] if side == "second" else [])],
                    entry[side],
                )


def _all_stage_names(file: StudyFile) -> list[str]:
    return list(dict.fromkeys(stage.name for scale in file.scales for stage in stages_of_arms(file, scale)))
