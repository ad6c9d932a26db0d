"""The public names, one a line: `__init__.py` reads the same lines, and loads each when it is first used."""

from instsel import kernels as kernels
from instsel.engine.results import Plan as Plan
from instsel.engine.results import ScoreBatch as ScoreBatch
from instsel.engine.results import ScoreStats as ScoreStats
from instsel.engine.scorer import Scorer as Scorer
from instsel.engine.scoring import plan_batch as plan_batch
from instsel.engine.scoring import score_batch as score_batch
from instsel.methods.correlation import spearman_correlation as spearman_correlation
from instsel.methods.deita import DeitaResult as DeitaResult
from instsel.methods.deita import deita as deita
from instsel.methods.grape import GrapeResult as GrapeResult
from instsel.methods.grape import grape as grape
from instsel.methods.ifd import DifficultyResult as DifficultyResult
from instsel.methods.ifd import ifd as ifd
from instsel.methods.miwv import NeighborResult as NeighborResult
from instsel.methods.miwv import miwv as miwv
from instsel.methods.nuggets import AnchorResult as AnchorResult
from instsel.methods.nuggets import nuggets as nuggets
from instsel.methods.perplexity import PerplexityResult as PerplexityResult
from instsel.methods.perplexity import perplexity as perplexity
from instsel.methods.rico import RicoResult as RicoResult
from instsel.methods.rico import rico as rico
from instsel.methods.selectit import SelectItResult as SelectItResult
from instsel.methods.selectit import selectit as selectit
from instsel.methods.wici import InfluenceResult as InfluenceResult
from instsel.methods.wici import wici as wici
from instsel.parallel.ray_workers import ray_workers as ray_workers
from instsel.parallel.workers import workers as workers
from instsel.runner.method_run import run_method as run_method
from instsel.runner.scored_run import MethodRun as MethodRun
from instsel.selection.folder_selection import WrittenSelection as WrittenSelection
from instsel.selection.run_selection import select_run as select_run
from instsel.selection.selector import select as select

__version__: str
