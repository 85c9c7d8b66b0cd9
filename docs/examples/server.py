"""An exported model behind HTTP: MODEL=small/ uvicorn server:app."""

import os
from typing import Any

from fastapi import FastAPI, HTTPException

import nisbench as nb

model = nb.load_model(os.environ["MODEL"])
app = FastAPI(title="An exported nisbench model")


@app.get("/")
def about() -> dict[str, Any]:
    return {"fields": model.fields, "metrics": model.metrics, "bytes": model.bytes}


@app.post("/predict")
def predict(columns: dict[str, list[Any]]) -> dict[str, list[float]]:
    """Predictions for columns of raw values, all of one length: {"user": ["3"], "item": ["7"]}."""
    try:
        return {"predictions": model.predict(columns).tolist()}
    except nb.NisbenchError as error:
        raise HTTPException(422, str(error)) from error
