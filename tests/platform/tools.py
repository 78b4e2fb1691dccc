"""What the platform tests need of Python, where the schemas live.

    tools.py json FILE       every document of a YAML file, as a JSON array on standard output; a key that is there twice is a mistake
    tools.py register FILE   would botocore send this task definition as RegisterTaskDefinition? Complaints on standard output, exit 1
    tools.py template FILE   a CloudFormation template of this task definition, for cfn-lint
"""

import json
import sys

import yaml


class Strict(yaml.SafeLoader):
    """YAML forbids a key that is there twice; PyYAML takes the last one without a word."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def documents(path):
    with open(path, encoding="utf-8") as file:
        return [document for document in yaml.load_all(file, Loader=Strict) if document is not None]


def register(definition):
    # The service model and the check are what the AWS command line has; no request is made.
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition")
    report = ParamValidator().validate(definition, model.input_shape)
    return report.generate_report() if report.has_errors() else ""


# Maps whose keys are the user's own words.
OPEN = ("options", "dockerLabels", "driverOpts", "labels")


def capitals(value):
    """CloudFormation begins every key with a capital letter: healthCheck is HealthCheck."""
    if isinstance(value, list):
        return [capitals(one) for one in value]
    if isinstance(value, dict):
        return {key[0].upper() + key[1:]: one if key in OPEN else capitals(one) for key, one in value.items()}
    return value


def main():
    verb, path = sys.argv[1:]
    if verb == "json":
        print(json.dumps(documents(path)))
        return 0
    with open(path, encoding="utf-8") as file:
        definition = json.load(file)
    if verb == "register":
        complaints = register(definition)
        print(complaints)
        return 1 if complaints else 0
    if verb == "template":
        task = {"Type": "AWS::ECS::TaskDefinition", "Properties": capitals(definition)}
        print(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"Task": task}}))
        return 0
    raise SystemExit(f"unknown verb {verb}: json, register, template")


if __name__ == "__main__":
    sys.exit(main())
