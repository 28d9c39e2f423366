from digit.weights.files import *
