"""config.pbtxt → the configuration that it is, or why it is none: read as strictly as Triton reads it.

The messages are those of Triton's model_config.proto as far as aaexport writes them; protobuf's own reader of the
text form refuses names, words and types that they do not have, and fields that stand there twice.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from aaexport.errors import DeploymentError, first_line

PACKAGE = "aaexport.triton"
ENUMS = {
    "DataType": (
        *("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8"),
        *(
            "TYPE_INT16",
            "TYPE_INT32",
            "TYPE_INT64",
            "TYPE_FP16",
            "TYPE_FP32",
            "TYPE_FP64",
            "TYPE_STRING",
            "TYPE_BF16",
        ),
    ),
    "Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
}
# Each message's fields: a scalar's type, an enumeration or a message; `*` where it repeats, `%` for a map from text,
# `|` for one of a group of which only one may be there.
MESSAGES = {
    "ModelConfig": {
        "name": "string", "platform": "string", "backend": "string", "default_model_filename": "string",
        "version_policy": "ModelVersionPolicy", "max_batch_size": "int32", "input": "*ModelInput",
        "output": "*ModelOutput", "optimization": "ModelOptimizationPolicy",
        "dynamic_batching": "|ModelDynamicBatching", "instance_group": "*ModelInstanceGroup",
        "parameters": "%ModelParameter", "model_warmup": "*ModelWarmup",
    },
    "ModelVersionPolicy": {"latest": "|Latest", "all": "|All", "specific": "|Specific"},
    "Latest": {"num_versions": "uint32"},
    "All": {},
    "Specific": {"versions": "*int64"},
    "ModelInput": {"name": "string", "data_type": "DataType", "dims": "*int64", "reshape": "ModelTensorReshape"},
    "ModelOutput": {
        "name": "string", "data_type": "DataType", "dims": "*int64", "reshape": "ModelTensorReshape",
        "label_filename": "string",
    },
    "ModelTensorReshape": {"shape": "*int64"},
    "ModelOptimizationPolicy": {"graph": "Graph", "execution_accelerators": "ExecutionAccelerators"},
    "Graph": {"level": "int32"},
    "ExecutionAccelerators": {
        "gpu_execution_accelerator": "*Accelerator", "cpu_execution_accelerator": "*Accelerator",
    },
    "Accelerator": {"name": "string", "parameters": "%string"},
    "ModelQueuePolicy": {
        "default_timeout_microseconds": "uint64", "allow_timeout_override": "bool", "max_queue_size": "uint32",
    },
    "ModelDynamicBatching": {
        "preferred_batch_size": "*int32", "max_queue_delay_microseconds": "uint64", "preserve_ordering": "bool",
        "default_queue_policy": "ModelQueuePolicy",
    },
    "ModelInstanceGroup": {"name": "string", "kind": "Kind", "count": "int32", "gpus": "*int32"},
    "ModelParameter": {"string_value": "string"},
    "ModelWarmup": {"name": "string", "batch_size": "uint32", "inputs": "%Input", "count": "uint32"},
    "Input": {
        "data_type": "DataType", "dims": "*int64", "zero_data": "|bool", "random_data": "|bool",
        "input_data_file": "|string",
    },
}  # fmt: skip
SCALARS = ("string", "bool", "int32", "int64", "uint32", "uint64")


def read_config(text: str) -> Any:
    """The ModelConfig that the text is.

    Raises:
        DeploymentError: the text is none; the message names the line.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, _classes()["ModelConfig"]())
    except text_format.ParseError as error:
        cause = first_line(error).replace(f"{PACKAGE}.", "")
        raise DeploymentError(f"config.pbtxt must be a Triton model configuration, but: {cause}") from error


def data_type_name(number: int) -> str:
    """1 → `TYPE_BOOL`."""
    return ENUMS["DataType"][number]


@cache
def _classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package=PACKAGE, syntax="proto3")
    for name, words in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, word in enumerate(words):
            enum.value.add(name=word, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            _add_field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES
    }


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    sign, kind = (kind[0], kind[1:]) if kind[0] in "*%|" else ("", kind)
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if sign in ("*", "%") else field.LABEL_OPTIONAL
    if sign == "%":
        entry = message.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, kind)
        field.type, field.type_name = field.TYPE_MESSAGE, entry.name
        return
    if sign == "|":
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0
    if kind in SCALARS:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
    else:
        field.type = field.TYPE_ENUM if kind in ENUMS else field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"
