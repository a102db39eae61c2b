"""The command ``python -m sb3_ldm.figures``."""

import sys
from collections.abc import Sequence

from sb3_ldm.command import CommandParser, run_command
from sb3_ldm.figures.draw import ALIASES, FIGURES, draw_figures


def main(argv: Sequence[str] | None = None) -> None:
    """
    The command ``python -m sb3_ldm.figures``.

    :param argv: its arguments, None for those of the process
    """
    parser = CommandParser(
        "figures", usage="%(prog)s [options] RUN_DIR [RUN_DIR ...]", description="Draw figures of finished runs."
    )
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument("--out", default="figures", metavar="DIR", help="folder to write to (default: %(default)s)")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join([*FIGURES, *ALIASES])}")
    parser.add_argument(
        "--label-by", default="algo", metavar="KEY,...", help="what tells groups of runs apart: algo, path, a hyperparameter"
    )
    parser.add_argument("--actions", choices=("sampled", "deterministic"), help="which evaluations to draw")
    parser.add_argument(
        "--window", type=int, default=5, help="evaluations in the moving average of learning curves (default: %(default)s)"
    )
    parser.add_argument("--format", default="png", choices=("png", "svg", "pdf"), help="of the files (default: %(default)s)")
    args = parser.parse_args(argv)
    only = None if args.only is None else args.only.split(",")
    written = draw_figures(args.run_dirs, args.out, only, args.label_by.split(","), args.actions, args.window, args.format)
    for path in written:
        print(path)
    for path in written:
        if path.name == "summary.md":
            print(f"\n{path.read_text(encoding='utf-8')}", end="")


if __name__ == "__main__":
    sys.exit(run_command(main))
