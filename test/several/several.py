# What the drivers of these tests share; it comes after harness/prelude.py.
import yr.apis

FAR = "far"  # a resource of all nodes but the first


def on(where="", **more):
    """Options of something small that has to run on a node, or on one of those with a resource."""
    return yr.InvokeOptions(**{"cpu": 300, "memory": 128, "custom_resources": {where: 1} if where else {}, **more})


@yr.invoke
def where():
    return yr.apis.get_node_id()


@yr.instance
class Seat:
    """Something that sits on a node and counts what it is asked."""

    def __init__(self):
        self.life, self.asked = os.urandom(8).hex(), 0

    def node(self):
        return yr.apis.get_node_id()

    def count(self):
        self.asked += 1
        return self.asked

    def who(self):
        return self.life, yr.apis.get_node_id()
