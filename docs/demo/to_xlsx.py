#!/usr/bin/python3
# Made co2.xlsx from statsmodels' co2.csv: to_xlsx.py co2.csv co2.xlsx. Values are
# untouched; the sheet gets the title and the notes that its publisher prints.
# Needs openpyxl.
import csv
import datetime
import sys

import openpyxl

book = openpyxl.Workbook()
book.properties.created = book.properties.modified = datetime.datetime(2014, 3, 15)
book.properties.creator = "Scripps Institution of Oceanography"
sheet = book.active
sheet.title = "maunaloa_c"
sheet.append(["Atmospheric CO2 at Mauna Loa Observatory, Hawaii, weekly averages"])
sheet.append(["Source: Keeling and Whorf 2004, CDIAC; obtained 2014-03-15; public domain"])
sheet.append([])
with open(sys.argv[1], newline="") as file:
    rows = csv.reader(file)
    sheet.append(next(rows))
    for date, co2 in rows:
        sheet.append([int(date), float(co2) if co2 else None])
sheet.append([])
sheet.append(["date: YYYYMMDD of the week's Saturday; co2: ppmv; empty: no average for that week"])
book.save(sys.argv[2])
