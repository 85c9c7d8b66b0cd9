"""A small project whose demo study goes through every step: what the checks of this folder run and kill."""

import zipfile
from pathlib import Path

import numpy as np
import yaml

from tests.helpers.project import Project, copy_project

DATA = """
datasets:
  movielens_latest_small: {url: ratings.zip, movies: null, ratings: ratings.csv}
  planted_ctr: {instances: 6000, scalar_fields: 2, categorical_fields: [200, 50, 20, 5], rank: 4, levels: 3}
"""

STUDY = """
studies:
  demo:
    title: To be killed
    grids:
      rating:
        datasets: [movielens_latest_small]
        models: [mf]
        methods:
          grid_search: [1, 2] # its trials train together
          random_search: [1]
          mde: [1]
          nis_se: [1]
          dnis: [1, 4]
          iterative_pruning: [2] # trains in rounds, while pruning
      ctr:
        datasets: [planted_ctr]
        models: [deepfm]
        methods: {dnis: [1]}
    seeds: [1]
    tables: [table1, table2, table3]
    figures: [figure3b]
    overrides:
      training: {base_dimension: 8, batch_size: 256, max_epochs: 30, patience: 30, checkpoint_seconds: 0, memory_limit: 0.001}
      models: {deepfm: {hidden: [16]}}
      methods:
        dnis: {patience: 30}
        grid_search: {dimensions: [2, 4, 6, 8]}
        random_search: {trials: 3, min_dimension: 2}
        mde: {settings: [{base_dimension: 4, temperature: 0.1}, {base_dimension: 8, temperature: 0.3}]}
        iterative_pruning: {rounds: 3}
"""


def make_project(root: Path, short: bool = False) -> Project:
    """With checkpoints as often as may be and instances in files, so that a kill finds a search in any of its states.

    `short`: of one data set.
    """
    study = yaml.safe_load(STUDY)
    if short:
        demo = study["studies"]["demo"]
        methods = demo["grids"]["rating"]["methods"]
        demo["tables"].remove("table3")
        del demo["grids"]["ctr"], demo["overrides"]["models"]
        del methods["random_search"], methods["mde"], methods["nis_se"]
    project = copy_project(root, yaml.safe_dump(study), DATA)
    write_ratings(root / "params" / "ratings.zip")
    return project


def write_ratings(archive: Path, users: int = 300, movies: int = 150, ratings: int = 12000) -> None:
    """An archive of the layout of MovieLens', with ratings that have something to be learned."""
    generator = np.random.default_rng(1)
    drawn = np.sort(generator.choice(users * movies, size=ratings, replace=False))
    user, movie = drawn // movies, drawn % movies
    tastes, kinds = generator.normal(size=(users, 3)), generator.normal(size=(movies, 3))
    liking = 3 + (tastes[user] * kinds[movie]).sum(1) / 2 + generator.normal(scale=0.3, size=ratings)
    stars = np.clip(np.round(2 * liking) / 2, 0.5, 5)
    lines = ["userId,movieId,rating,timestamp"]
    lines += [
        f"{u + 1},{m + 1},{s},{1_000_000_000 + i}" for i, (u, m, s) in enumerate(zip(user, movie, stars, strict=True))
    ]
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("ratings.csv"), "\n".join(lines) + "\n")
