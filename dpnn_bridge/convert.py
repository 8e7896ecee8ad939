from dpnn_bridge.conversion import *  # noqa
from dpnn_bridge.conversion import (  # noqa
    Options, TorchContext, LuaContext, convert_object, to_value, is_module, format_path, tensor_type, Placeholder, strided, lua_storage, MAX_DEPTH,
)
