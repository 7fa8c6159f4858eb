import sys

import pandas as pd

first = int(sys.argv[1])
years = pd.read_csv("co2_by_year.csv", index_col="year").loc[first:first + 9]
slope = years["mean"].cov(years.index.to_series()) / years.index.to_series().var()
print(f"{first}s  {len(years)} years  {years['mean'].mean():6.1f} ppm  {slope:+.2f} ppm a year")
