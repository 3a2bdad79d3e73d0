"""`python -m equipoise.demo`: writes the demo set anew, in place."""

from equipoise.demo import path
from equipoise.demo._generate import as_csv, rows

if __name__ == "__main__":
    path().write_bytes(as_csv(rows()).encode())
    print(f"wrote {path()}")
