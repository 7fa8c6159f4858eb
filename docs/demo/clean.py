import sys

import matplotlib.pyplot as plt
import pandas as pd

raw = pd.read_excel(sys.argv[1], header=None, names=["date", "co2"], usecols=[0, 1])
day = pd.to_datetime(raw["date"].astype(str), format="%Y%m%d", errors="coerce")
weeks = raw[day.notna()].assign(day=day)
weeks["co2"] = pd.to_numeric(weeks["co2"], errors="coerce")
gaps = int(weeks["co2"].isna().sum())
series = weeks.set_index("day")["co2"].interpolate(method="time", limit=8)

print(f"{len(raw):,} rows read, {len(raw) - len(weeks)} are no weeks, {gaps} weeks had no value\n")
years = series.resample("YS").agg(["mean", "min", "max"]).loc["1959":]
years.index = years.index.year.rename("year")
years["growth"] = years["mean"].diff()
print(years[years.index % 5 == 0].round(2).to_string())
print(f"\nfrom {years['mean'].iloc[0]:.1f} to {years['mean'].iloc[-1]:.1f} ppm in {len(years) - 1} years")

years.round(3).to_csv("out/co2_by_year.csv")
figure, axes = plt.subplots(figsize=(8, 4.5))
axes.plot(series.index, series, linewidth=0.6, label="weekly")
axes.plot(pd.to_datetime(years.index, format="%Y"), years["mean"], label="year's mean")
axes.set_title("CO2 at Mauna Loa")
axes.set_ylabel("ppm")
axes.legend()
figure.savefig("out/co2.png", dpi=110)
