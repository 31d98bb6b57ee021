import json
from benchmarks.transferable import measure
if __name__ == '__main__': print(json.dumps(measure()))