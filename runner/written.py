"""Values that a configuration file writes as text, and that are written down again as they stood there."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


class Written:
    """Base of a value with a `text`, for use as the type of a field.

    Attributes:
        shortest: how many characters the shortest such text has, for editors.
    """

    __slots__ = ()
    shortest: ClassVar[int] = 1
    text: str

    @classmethod
    def read(cls, value: object) -> Self | None:
        """Return what is written.

        Raises:
            PydanticCustomError: what is wrong with it, as a finding.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        return self.text

    @classmethod
    def _validated(cls, value: object) -> Self | None:
        return value if isinstance(value, cls) else cls.read(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        as_text = core_schema.to_string_ser_schema()
        return core_schema.no_info_plain_validator_function(cls._validated, serialization=as_text)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "minLength": cls.shortest}
