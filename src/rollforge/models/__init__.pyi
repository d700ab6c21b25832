# Written by 'make tables' from the __all__ of each file. Type checkers read it; each name is imported on first use.

from .base import (
    BaseModel as BaseModel,
    Model as Model,
    ModelFT as ModelFT,
    Reweighter as Reweighter,
)
from .catboost import (
    CatBoostModel as CatBoostModel,
)
from .classes import (
    are_text as are_text,
    class_numbers as class_numbers,
    fitted_labels as fitted_labels,
)
from .constant import (
    ConstantModel as ConstantModel,
    EmptyDataset as EmptyDataset,
)
from .double_ensemble import (
    DEnsembleModel as DEnsembleModel,
)
from .kept import (
    KeptModel as KeptModel,
)
from .lightgbm import (
    HFLGBModel as HFLGBModel,
    LGBModel as LGBModel,
)
from .linear import (
    LinearModel as LinearModel,
)
from .samples import (
    Samples as Samples,
    prediction_features as prediction_features,
    training_samples as training_samples,
)
from .sklearn import (
    SklearnModel as SklearnModel,
    describe_estimator as describe_estimator,
)
from .torch import (
    TorchModel as TorchModel,
)
from .torch_adarnn import (
    ADARNN as ADARNN,
)
from .torch_add import (
    ADD as ADD,
)
from .torch_hist import (
    HIST as HIST,
)
from .torch_igmtf import (
    IGMTF as IGMTF,
)
from .torch_models import (
    ALSTM as ALSTM,
    GRU as GRU,
    KRNN as KRNN,
    LIBRARY as LIBRARY,
    LSTM as LSTM,
    SFM as SFM,
    TCN as TCN,
    TSTCN as TSTCN,
    DNNModelPytorch as DNNModelPytorch,
    GATs as GATs,
    GeneralPTNN as GeneralPTNN,
    LocalformerModel as LocalformerModel,
    Sandwich as Sandwich,
    TransformerModel as TransformerModel,
    TSGATs as TSGATs,
    TSLocalformerModel as TSLocalformerModel,
    TSTransformerModel as TSTransformerModel,
)
from .torch_tabnet import (
    TabnetModel as TabnetModel,
)
from .torch_tcts import (
    TCTS as TCTS,
)
from .torch_tra import (
    TRAModel as TRAModel,
)
from .tuned import (
    TunedModel as TunedModel,
)
from .xgboost import (
    XGBModel as XGBModel,
)
