"""scikit-learn's grid search through joblib: the same answer as the serial run."""

import joblib
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from shoal.util.joblib import register_shoal

register_shoal()
features, labels = load_iris(return_X_y=True)


def search() -> GridSearchCV:
    grid = {"C": [0.1, 1, 10], "gamma": [0.01, 0.1]}
    return GridSearchCV(SVC(), grid, cv=3).fit(features, labels)


serial = search()
with joblib.parallel_backend("shoal", n_jobs=2):
    ours = search()
print(ours.best_params_, round(ours.best_score_, 4))
assert ours.best_params_ == serial.best_params_ and ours.best_score_ == serial.best_score_
