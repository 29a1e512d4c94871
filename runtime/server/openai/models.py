"""`/v1/models`: the one model that is served."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from antiphon.server.openai.schemas import errors
from antiphon.server.service import Service

__all__ = ["models"]


class Model(BaseModel):
    """A model as OpenAI describes it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "antiphon"


class ModelList(BaseModel):
    """All that are served: one."""

    object: Literal["list"] = "list"
    data: list[Model]


def models(service: Service) -> APIRouter:
    """`/v1/models` and `/v1/models/{id}`."""
    router = APIRouter(tags=["models"])

    def described() -> Model:
        return Model(id=service.model_name, created=service.started_s)

    @router.get("/v1/models", responses=errors(401, 500, 503))
    async def list_models() -> ModelList:
        """The models that are served."""
        return ModelList(data=[described()])

    @router.get("/v1/models/{model:path}", responses=errors(401, 404, 500, 503))
    async def retrieve_model(model: str) -> Model:
        """One model, by its id."""
        service.check_model(model)
        return described()

    return router
