"""Compute published metrics from saved answers.

`predictions` is a file of a model's answers. `generation/` makes it with vLLM, and is the only part that uses vLLM.
Everything else reads it, so that metrics can be recomputed without generating again:

* `settings`, `evaluating.evaluate`: predictions -> `records.Evaluation`; `markdown.markdown`, `records.save`, `load`;
* `reading` and `confidence`: an answer scored as in training, and the confidence of each box;
* `detections`, `ranking`, `average_precision`: COCO's metrics, and their resamples;
* `rows`: metrics of single answers, with formula and source;
* `bootstrap`, `correlation`, `comparison`: intervals, correlation of reward and metric, comparison of models.
"""
