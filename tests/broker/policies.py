"""Policies of these tests. @SECRETS@ is the folder of the secret files."""

CANARY = "CANARY-kJ8s/2+w=q&x"  # has bytes that URLs, HTML and base64 write otherwise

SECRETS = """
[secrets.key]
file = "@SECRETS@/key"
[secrets.ca]
file = "@SECRETS@/ca"
open = true
"""


def http(name, host, port, auth="header", prefix="/v1", **more):
    lines = {"methods": '["GET", "HEAD", "POST", "PUT", "DELETE"]', "paths": '["/**"]', "query": '["*"]',
             "headers": '["accept", "accept-encoding", "content-type", "x-*"]', "users": '["*"]', "ca": '"ca"',
             "allow_addresses": '["127.0.0.1"]', "encoded_slash": "true"}
    lines.update(more)
    text = f'[http.{name}]\nupstream = "https://{host}:{port}{prefix}"\n'
    text += "".join(f"{key} = {value}\n" for key, value in lines.items() if value)
    kinds = {
        "header": 'kind = "header"\nheader = "Authorization"\nprefix = "Bearer "\nsecret = "key"\n',
        "query": 'kind = "query"\nquery = "key"\nsecret = "key"\n',
        "basic": 'kind = "basic"\nuser = "me"\nsecret = "key"\n',
        "s3": 'kind = "sigv4"\nkey_id = "AKIDEXAMPLE"\nsecret = "key"\nregion = "eu-west-1"\nservice = "s3"\n',
        "sts": 'kind = "sigv4"\nkey_id = "AKIDEXAMPLE"\nsecret = "key"\nregion = "eu-west-1"\nservice = "sts"\n',
    }
    return text + (f"[http.{name}.auth]\n{kinds[auth]}" if auth else "")
