"""`python -m rrhelpers`: fill the hub's cache before the network goes, or empty ours."""

import argparse

from tqdm.auto import tqdm

from .cache import cache_folder, clear_cache
from .hub import HubUnreachable, snapshot
from .registry import SPECS


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m rrhelpers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    download = commands.add_parser("download", help="fetch the hub profile's models and papers into the cache")
    roles = sorted({one.role for one in SPECS if one.profile == "hub"})
    download.add_argument("roles", nargs="*", metavar="ROLE", help=f"all if none is given: {', '.join(roles)}")
    commands.add_parser("clear-cache", help=f"delete the cached vectors in {cache_folder()}")
    args = parser.parse_args()
    if args.command == "clear-cache":
        clear_cache()
        return
    if unknown := set(args.roles) - set(roles):
        parser.error(f"no such role: {', '.join(sorted(unknown))}; there are {', '.join(roles)}")
    try:
        for one in tqdm([s for s in SPECS if s.profile == "hub" and (not args.roles or s.role in args.roles)]):
            tqdm.write(f"{one.role}: {one.id}")
            snapshot(one)
    except HubUnreachable as error:
        raise SystemExit(f"rrhelpers: {error}") from None


if __name__ == "__main__":
    main()
