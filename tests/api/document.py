"""The Engine API's OpenAPI document: its operations, and schemas with references and `allOf` resolved."""
import re

import yaml

METHODS = ("get", "head", "post", "put", "delete")


class Document:
    def __init__(self, path):
        with open(path, encoding="utf-8") as text:
            self.root = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

    def operations(self):
        """Operation id, method, path, parameters and the schema of the 2xx answer (or None)."""
        for path, methods in self.root["paths"].items():
            for method in METHODS:
                operation = methods.get(method)
                if operation:
                    parameters = operation.get("parameters", [])
                    yield operation["operationId"], method.upper(), path, parameters, answer(operation)

    def resolve(self, schema):
        """The schema with its properties in one place."""
        if "$ref" in schema:
            return self.resolve(self.root["definitions"][schema["$ref"].rsplit("/", 1)[1]])
        if "allOf" not in schema:
            return schema
        whole = {k: v for k, v in schema.items() if k != "allOf"}
        properties = dict(schema.get("properties", {}))
        for part in map(self.resolve, schema["allOf"]):
            properties |= part.get("properties", {})
            whole.setdefault("type", part.get("type", "object"))
            if "additionalProperties" in part:
                whole.setdefault("additionalProperties", part["additionalProperties"])
        return whole | ({"properties": properties} if properties else {})

    def properties(self, definition):
        """Name and schema of each property of a definition."""
        return self.resolve(self.root["definitions"][definition])["properties"]


def answer(operation):
    for status, response in operation["responses"].items():
        if str(status).startswith("2") and "schema" in response:
            return response["schema"]
    return None


def filter_names(parameter):
    """What a `filters` parameter may contain: the list in its description."""
    return sorted(set(re.findall(r"^\s*- `([a-z-]+)", parameter.get("description", ""), re.M)))


def differences(document, schema, value, path=""):
    """Yields (kind, path): fields of the schema that the answer lacks, fields it has beyond, values of other types.

    Paths are written as in jq; `[]` stands for every element and `{}` for every value of a map."""
    schema = document.resolve(schema)
    kind = schema.get("type", "object" if "properties" in schema else None)
    if value is None:
        return  # Go's nil: documents say of few fields that they can be null, and nearly all can.
    if not has_type(kind, value):
        yield "type", f"{path}: {kind}, and not {type(value).__name__}"
    elif kind == "array":
        found = {d for item in value for d in differences(document, schema.get("items", {}), item, path + "[]")}
        # An element may lack what another has.
        lacks = [set(differences(document, schema.get("items", {}), item, path + "[]")) for item in value]
        for d in sorted(found):
            if d[0] != "missing" or all(d in each for each in lacks):
                yield d
    elif kind == "object":
        known = schema.get("properties", {})
        more = schema.get("additionalProperties")
        for name, inner in known.items():
            if name in value:
                yield from differences(document, inner, value[name], f"{path}.{name}")
            else:
                yield "missing", f"{path}.{name}"
        for name, inner in value.items():
            if name in known:
                continue
            if isinstance(more, dict):
                yield from differences(document, more, inner, path + "{}")
            elif known and not more:
                yield "extra", f"{path}.{name}"
    elif "enum" in schema and value not in schema["enum"]:
        yield "type", f"{path}: {value!r} is none of {schema['enum']}"


def has_type(kind, value):
    wanted = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    if kind not in wanted:
        return True
    return isinstance(value, wanted[kind]) and (kind == "boolean" or not isinstance(value, bool))
