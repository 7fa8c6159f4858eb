# Run in every parked clone before it has a task, so that the pages of a first table and a first
# chart are the clone's own. Leaves nothing that a task could see.
import io

import matplotlib.font_manager
import matplotlib.pyplot as plt
import pandas as pd

table = pd.DataFrame({"kind": ["a", "b", "a", "b"], "value": [1.0, 2.0, 3.0, None]})
table.groupby("kind")["value"].agg(["mean", "count"]).to_string()
figure, axes = plt.subplots(figsize=(0.8, 0.6))
axes.plot(table["value"])
figure.savefig(io.BytesIO(), format="png")
plt.close("all")
del figure, axes, table
matplotlib.font_manager._get_font.cache_clear()  # its fonts hold their files open
