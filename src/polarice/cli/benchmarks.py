"""Commands that measure models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from .options import Device, Out, Output, Overwrite

__all__ = ["benchmark"]

benchmark = App(name="benchmark", help="Measure models side by side on structures they have not seen.")


@benchmark.command
def attention(
    bank: Annotated[Path, Parameter(help="A bank of structures that the model has not seen.")],
    *,
    out: Out,
    model: Annotated[
        str, Parameter(help="A shipped joint model's name, or a weights file.")
    ] = "polar-transformer-64",
    structures: Annotated[
        int | None, Parameter(help="How many, spread evenly over the bank; all by default.")
    ] = None,
    quick: Annotated[bool, Parameter(help="Ten structures, fewer sets and SNRs.", negative="")] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Measure what a model's attention knows: in-plane angles, and which images show one view."""
    from ..evaluation import QUICK_DIAGNOSTICS, attention_table, benchmark_attention
    from ..simulation import StructureBank

    console = (output or Output()).console()
    given = StructureBank.load(bank)
    if quick and structures is None:
        structures = min(10, len(given))
    with console.progress():
        figures = benchmark_attention(
            given,
            out,
            model=model,
            settings=QUICK_DIAGNOSTICS if quick else None,
            structures=structures,
            device=device,
            overwrite=overwrite,
            progress=console.step,
        )
    console.say(attention_table(figures))
    for file, what in figures["files"].items():
        console.say(f"{what}: {file}")
    console.finish(figures)
    return 0


@benchmark.command
def neighbours(
    bank: Annotated[Path, Parameter(help="A bank of structures that the models have not seen.")],
    *,
    out: Out,
    model: Annotated[
        str, Parameter(help="A shipped joint model's name, or a weights file.")
    ] = "polar-transformer-64",
    single_model: Annotated[str, Parameter(help="What denoises images alone, to compare with.")] = "unet-64",
    structures: Annotated[int, Parameter(help="How many, spread evenly over the bank.")] = 10,
    names: Annotated[
        list[str] | None, Parameter(help="These structures of the bank instead.", negative="")
    ] = None,
    snr: Annotated[list[float] | None, Parameter(help="By default 0.25, 0.1 and 0.03.", negative="")] = None,
    particles: Annotated[int, Parameter(help="Uniform views of each structure.")] = 1000,
    neighbours: Annotated[int, Parameter(help="Neighbours of each particle.")] = 16,
    ctf: Annotated[bool, Parameter(help="With CTFs, and shifts of up to 3 pixels.")] = True,
    device: Device = "auto",
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Measure how well neighbours are found in stacks that nobody clustered, and what they are good for."""
    from ..evaluation import NeighbourBenchmarkSettings, benchmark_neighbours, neighbour_benchmark_table
    from ..simulation import StructureBank

    console = (output or Output()).console()
    settings = NeighbourBenchmarkSettings(
        model=model,
        single_model=single_model,
        structures=structures,
        names=tuple(names) if names else None,
        snr=tuple(snr or (0.25, 0.1, 0.03)),
        particles=particles,
        neighbours=neighbours,
        ctf=ctf,
        device=device,
    )
    with console.progress():
        figures = benchmark_neighbours(
            StructureBank.load(bank), out, settings, overwrite=overwrite, progress=console.step
        )
    console.say(neighbour_benchmark_table(figures))
    console.finish(figures)
    return 0


@benchmark.command
def paper(
    bank: Annotated[Path, Parameter(help="A bank of structures that no model was trained on.")],
    *,
    out: Out,
    models: Annotated[
        list[str] | None,
        Parameter(help="Shipped names or weights files; all that is shipped by default.", negative=""),
    ] = None,
    structures: Annotated[
        int | None, Parameter(help="Use so many of the bank's structures, evenly spaced.")
    ] = None,
    quick: Annotated[bool, Parameter(help="Use a tenth of the structures.", negative="")] = False,
    cwf: Annotated[
        Path | None, Parameter(help="Results of covariance Wiener filtering to show beside, JSON.")
    ] = None,
    seed: Annotated[int, Parameter(help="Of images and intervals.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Measure classical methods, networks and bounds under the paper's conditions."""
    from ..evaluation import benchmark as room
    from ..files import prepare_output
    from ..simulation import StructureBank

    console = (output or Output()).console()
    prepare_output(out, overwrite)
    test_bank = StructureBank.load(bank)
    settings = room.BenchmarkSettings(
        models=tuple(models) if models else None, structures=structures, seed=seed, device=device
    )
    if quick:
        settings = settings.quick(len(test_bank))
    with console.progress():
        result = room.run_benchmark(test_bank, settings, cwf=cwf, progress=console.step)
    files = room.write_benchmark(result, out)
    for note in result.notes:
        console.note(f"note: {note}")
    for line in room.table_lines(result):
        console.say(line)
    console.say(f"{result.seconds / 60:.1f} minutes; the tables: {files['table']}")
    console.finish({**result.figures(), "files": {name: str(path) for name, path in files.items()}})
    return 0


@benchmark.command
def threed(
    bank: Annotated[Path, Parameter(help="A bank of structures that the models have not seen.")],
    *,
    out: Out,
    model: Annotated[
        str, Parameter(help="A shipped joint model's name, or a weights file.")
    ] = "polar-transformer-64",
    names: Annotated[
        list[str] | None, Parameter(help="Structures; 1FDO, 3NAL and 6BQN by default.", negative="")
    ] = None,
    snr: Annotated[list[float] | None, Parameter(help="By default 0.25.", negative="")] = None,
    particles: Annotated[int, Parameter(help="Uniform views of each structure.")] = 2048,
    ctf: Annotated[bool, Parameter(help="With CTFs, and shifts of up to 3 pixels.")] = False,
    methods: Annotated[
        list[str] | None,
        Parameter(
            help="Of truth, true-map, own, sets, unet-64, dncnn-64, noisy; all by default.", negative=""
        ),
    ] = None,
    representatives: Annotated[int, Parameter(help="See `polarice abinitio`.")] = 500,
    rounds: Annotated[int, Parameter(help="See `polarice abinitio`.")] = 3,
    device: Device = "auto",
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Measure orientations and maps of simulated stacks, with and without knowing the sets."""
    from ..evaluation import THREED_METHODS, ThreedBenchmarkSettings, benchmark_threed, threed_table
    from ..simulation import StructureBank

    console = (output or Output()).console()
    default = ThreedBenchmarkSettings()
    settings = ThreedBenchmarkSettings(
        names=tuple(names or default.names),
        snr=tuple(snr or default.snr),
        particles=particles,
        ctf=ctf,
        methods=tuple(methods or THREED_METHODS),
        model=model,
        representatives=representatives,
        rounds=rounds,
        device=device,
    )
    with console.progress():
        figures = benchmark_threed(
            StructureBank.load(bank), out, settings, overwrite=overwrite, progress=console.step
        )
    console.say(threed_table(figures))
    console.finish(figures)
    return 0
