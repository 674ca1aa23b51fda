"""Everything that Slipway does, without a browser and without a terminal.

Map, from the rules outwards: `errors` and `domain` (words and pure rules), `settings`, `ports`
(all that is asked of the world), `checks`, `bench` and `rollout` (use cases), the adapters
(`registry`, `local`, `predictor`, `engine`, `store`, …), and `connect`, which joins them for one
target.
Nothing here imports Streamlit, prints, or uses pandas.
"""
