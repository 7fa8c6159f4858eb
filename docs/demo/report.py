import json
import os
import urllib.request as web


def ask(path, body=None):
    token = os.environ.get("SHOP_TOKEN", "none")
    return json.load(web.urlopen(web.Request(os.environ["SHOP_URL"] + path, body, {"Authorization": "Bearer " + token})))


orders = ask("/orders")
report = {"orders": len(orders), "total": sum(order["total"] for order in orders)}
print(report, "is report", ask("/reports", json.dumps(report).encode())["number"])
