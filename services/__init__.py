"""Everything that Slipway does, without a browser and without a terminal.

Map, from the rules outwards: `errors` and `domain` (words and pure rules), `settings`, `ports`
(all that is asked of the world), `checks`, `lineage`, `planning`, `preparing`, `bench` and
`rollout` (use cases), the adapters (`registry`, `local`, `predictor`, `engine`, `store`, …), and
`connect`, which joins them for one target.

Of a cluster: `kubeobject` and `kubepaths` (words of its API), `manifests` and `servingruntime`
(what is written), `inferenceservice` and `podsteps` (what objects mean), `symptoms` (what failures
mean), `waysin`, `podlogs`, `watched`, `facilities` and `relay` (parts that ask), `kserve` and
`journal` (the adapters).

Nothing here imports Streamlit, prints, or uses pandas.
"""
