# Run once in the zygote, after its preloads: does the lazy loading and computing of a first table
# and a first chart, so that no task repeats it. Leaves no file, thread or open descriptor behind.
import io

import matplotlib.font_manager
import matplotlib.pyplot as plt
import openpyxl.writer.excel  # noqa: F401
import pandas as pd

with open("/usr/lib/mayfly/check_blas.py") as file:
    space = {}
    exec(compile(file.read(), file.name, "exec"), space)
space["refuse_wrong_results"]()

table = pd.read_excel("/usr/lib/mayfly/warm.xlsx")
table["day"] = pd.to_datetime(table["day"].astype(str), errors="coerce")
table["value"] = pd.to_numeric(table["value"], errors="coerce").interpolate()
monthly = table.set_index("day").resample("MS")["value"].agg(["mean", "count"])
table.groupby("kind")["value"].describe()
table.merge(table, on="day").sort_values("value_x").pivot_table(index="day", columns="kind_x", values="value_y")
monthly.to_string()
pd.read_csv(io.StringIO(table.to_csv(index=False)), parse_dates=["day"])

figure, axes = plt.subplots()
axes.plot(table["day"], table["value"], label="warm")
axes.bar(table["day"], table["value"])
axes.set_title("Title $x^2$")
axes.set_xlabel("x")
axes.set_ylabel("y")
axes.legend()
axes.grid(True)
figure.autofmt_xdate()
figure.tight_layout()
figure.savefig(io.BytesIO(), format="png")
plt.close("all")
matplotlib.font_manager._get_font.cache_clear()  # each font holds its file open; clones clear the cache anyway
del table, monthly, figure, axes, space, file
