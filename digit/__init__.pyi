# The names of the package, once: __init__.py reads them here (Scientific Python, SPEC 1).
from digit.errors import DigitError as DigitError
from digit.errors import LineageError as LineageError
from digit.nn.sampling import SamplerConfig as SamplerConfig
from digit.pipeline import DigitPipeline as DigitPipeline
from digit.pipeline import Pictures as Pictures
from digit.run.compose import compose as compose
from digit.run.convert import convert as convert
from digit.run.convert import convert_official as convert_official
from digit.run.evaluate.checks import compare_results as compare_results
from digit.run.evaluate.checks import selftest as selftest
from digit.run.evaluate.images import evaluate_images as evaluate_images
from digit.run.evaluate.prefix import evaluate_prefix as evaluate_prefix
from digit.run.evaluate.probe import evaluate_probe as evaluate_probe
from digit.run.evaluate.projection import evaluate_projection as evaluate_projection
from digit.run.evaluate.reconstruction import evaluate_reconstruction as evaluate_reconstruction
from digit.run.evaluate.stability import evaluate_stability as evaluate_stability
from digit.run.evaluate.sweep import evaluate_sweep as evaluate_sweep
from digit.run.fit import fit as fit
from digit.run.info import info as info
from digit.run.sample import sample as sample
from digit.run.tokenize import tokenize as tokenize
from digit.run.train import train_prior as train_prior
from digit.run.train import train_probe as train_probe
from digit.run.train import train_recipe as train_recipe
from digit.run.train import train_renderer as train_renderer
from digit.run.train import train_vqgan as train_vqgan
from digit.weights.artifact import load as load
from digit.weights.artifact import save as save
from digit.weights.model_folder import PipelineSampling as PipelineSampling

__version__: str
